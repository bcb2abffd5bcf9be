"""The package as it is installed: a wheel in another place finds its mappings, and brings its two commands."""

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import migrator
from migrator.run import VERSION

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("copy")  # building leaves traces
    for name in ("migrator", "mappings"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(folder), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_every_public_name_is_there() -> None:
    assert [name for name in migrator.__all__ if getattr(migrator, name).__name__ != name] == []


def test_a_wheel_installed_elsewhere_finds_its_mappings(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from migrator.mapping_file import load_mapping, shipped; import migrator; print(migrator.__file__, [load_mapping(n).name for n in shipped()])"
    # Without the finder of an editable install, which would come first.
    alone = "sys.meta_path[:] = [each for each in sys.meta_path if 'editable' not in repr(each).lower()]"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {alone}; {code}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert str(tmp_path / "site") in said
    assert "luminoracore-v1.1" in said


def test_a_wheel_brings_two_commands_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        text = archive.read(entry).decode()
    assert "migrator = migrator.cli:main" in text
    assert "migrate = migrator.cli:migrate_main" in text
    assert not any(name.startswith("tests") for name in names)


def test_the_version_that_a_report_names_is_the_one_that_is_installed() -> None:
    assert metadata.version("migrator") == VERSION
