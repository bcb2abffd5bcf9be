# The project's own virtual environment, shared by scripts/test and scripts/demo. Source it:
#
#   . "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"    sets $root (the project) and $venv (its environment)
#   make_venv                                      makes $venv anew if it is missing or out of date
#
# Needs Python 3.11 or later with pip, nothing else. $PYTHON chooses another than python3.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

make_venv() {
    local python=${PYTHON:-python3} place wanted
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "migrator needs Python 3.11 or later; name one with PYTHON=… (tried: $python)" >&2
        return 2
    }
    # Out of date: another interpreter, the project moved, or other needs. Only the last is mended in place.
    place=$("$python" -c 'import sys; print(*sys.version_info[:3], sys.base_prefix)' && echo "$root")
    wanted=$(echo "$place" && cat "$root/setup.cfg" "$root/scripts/_venv.sh")
    _venv_is_made_for "$wanted" || (
        flock 9 2>/dev/null # two scripts started at once take turns, where there is flock
        _venv_is_made_for "$wanted" || {
            echo "Making the virtual environment $venv" >&2
            { _venv_is_made_for "$place" "and more" || _empty_venv "$python"; } &&
                "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[test,zstd,fast]" &&
                printf '%s\n' "$wanted" >"$venv/made-for"
        }
    ) 9>"$root/.venv.lock"
}

_venv_is_made_for() {
    [[ -x $venv/bin/python && -f $venv/made-for ]] || return
    case $(<"$venv/made-for") in
        "$1") ;;
        "$1"$'\n'*) [[ ${2-} == "and more" ]] ;;
        *) return 1 ;;
    esac
}

_empty_venv() {
    # Debian's Python has no ensurepip without python3-venv: there the pip at hand installs the one inside.
    if "$1" -c 'import ensurepip' 2>/dev/null; then
        "$1" -m venv --clear "$venv"
    else
        "$1" -m venv --clear --without-pip "$venv" && "$1" -m pip --python "$venv/bin/python" install --quiet pip
    fi
}
