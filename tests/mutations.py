"""The small mistakes that `mutants.py` makes in a module: each replaces one node of its syntax tree by another.

Knows Python's syntax and nothing of tests. Words for people (docstrings, messages, formatted strings), types, assertions and imports are left
alone: no test should tell them apart.
"""

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.BitXor: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
TOLD = ("say", "step", "progress", "plan")
"""What is called to show something: its words are for people."""


@dataclass(frozen=True)
class Mutant:
    """A module with one mistake: its code, where the mistake is, and what was written there and what is now.

    `statement` is the line of the statement in a function that has the mistake; None: it runs when the module is imported.
    """

    where: str
    line: int
    statement: int | None
    before: str
    after: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"`{self.where}`: `{self.before}` → `{self.after}`"


def mutants(source: str, module: str) -> Iterator[Mutant]:
    """All mutants of a module of that name. The tree is one and the same, and holds the mistake only until the next mutant is asked for."""
    tree = ast.parse(source)
    for place in _places(tree, [], tree):
        for new in _mistakes(place):
            up = place.height()
            before = place.words(up)
            place.put(new)
            after = place.words(up)
            place.show(new)
            yield Mutant(
                f"{module}.{place.where}", getattr(place.node, "lineno", 0), place.statement(), before, after, tree
            )
            place.put(place.node)


@dataclass
class _Place:
    """A node and those it is in, from the module down; `field` and `index` say where in the last of them."""

    node: ast.AST
    above: list[ast.AST]
    field: str
    index: int | None

    @property
    def parent(self) -> ast.AST:
        return self.above[-1]

    @property
    def where(self) -> str:
        names = [node.name for node in self.above if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        return ".".join(names) or "*"

    @property
    def function(self) -> ast.FunctionDef | None:
        return next((node for node in reversed(self.above) if isinstance(node, ast.FunctionDef)), None)

    def put(self, new: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.index] = new

    def show(self, new: ast.AST) -> None:
        """Give a new node the lines of the old one."""
        ast.copy_location(new, self.node)
        ast.fix_missing_locations(new)

    def statement(self) -> int | None:
        """The line of the statement that must run before a test can notice."""
        if (function := self.function) is None:
            return None
        for node in (self.node, *reversed(self.above)):
            if node is function.args:  # a default
                return function.body[0].lineno
            if isinstance(node, ast.ExceptHandler):
                return node.body[0].lineno
            if isinstance(node, ast.stmt):
                return node.lineno
        return None

    def height(self) -> int:
        """How many nodes up is the smallest piece of code around it that can be read alone."""
        node, up = self.node, 0
        for above in reversed(self.above):
            if len(_line(node)) > 15 or isinstance(
                above, ast.stmt | ast.arguments | ast.ExceptHandler | ast.match_case | ast.withitem
            ):
                break
            node, up = above, up + 1
        return up

    def words(self, up: int) -> str:
        """The code there, so many nodes up."""
        if isinstance(self.parent, ast.arguments):
            return f"({_line(self.parent)})"
        if up:
            return _line(self.above[-up])
        now = getattr(self.parent, self.field)
        return _line(now if self.index is None else now[self.index])


class _Watched(ast.NodeTransformer):
    def __init__(self, name: str) -> None:
        self.name, self.depth = name, 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        is_function = isinstance(node, ast.FunctionDef)
        self.depth += is_function
        super().generic_visit(node)
        if self.depth:
            for field in ("body", "orelse", "finalbody"):
                statements = getattr(node, field, None)
                if isinstance(statements, list):
                    setattr(node, field, [new for each in statements for new in (self._watch(each), each)])
        self.depth -= is_function
        return node

    def _watch(self, statement: ast.stmt) -> ast.stmt:
        call = ast.Call(ast.Name(self.name, ast.Load()), [ast.Constant(statement.lineno)], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement))


def watched(source: str, name: str) -> ast.Module:
    """The module without a mistake, but each statement in a function is told first, by its line, to what is called by that name."""
    return _Watched(name).visit(ast.parse(source))  # type: ignore[no-any-return]


def _line(node: Any) -> str:
    lines = [line.strip() for line in ast.unparse(node).splitlines()] if node is not None else [""]
    shown = lines[:1] if lines[0] in ("try:", "if True:") else lines[:2]
    return " ⏎ ".join(shown).replace("`", "'") + (" …" if len(lines) > len(shown) else "")


def _places(node: ast.AST, above: list[ast.AST], tree: ast.Module) -> Iterator[_Place]:
    """Every node that may be mistaken, outer ones first."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "keywords_of_class", "type_comment"):
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or _is_for_people(child, node, field, index):
                continue
            yield _Place(child, [*above, node], field, index if isinstance(value, list) else None)
            if not isinstance(child, ast.Raise | ast.JoinedStr):
                yield from _places(child, [*above, node], tree)


def _is_for_people(child: ast.AST, parent: ast.AST, field: str, index: int) -> bool:
    match child:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
    is_told = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) and parent.func.attr in TOLD
    return is_told and field == "args"


def _mistakes(place: _Place) -> Iterator[ast.AST]:
    node, parent = place.node, place.parent
    if isinstance(node, ast.expr):
        is_asked = place.field == "test" or (isinstance(parent, ast.comprehension) and place.field == "ifs")
        if is_asked and not isinstance(node, ast.Compare | ast.Constant | ast.UnaryOp):
            yield ast.UnaryOp(ast.Not(), node)
        yield from _mistaken_expressions(node, parent)
    elif isinstance(node, ast.stmt):
        yield from _mistaken_statements(node, place)
    elif isinstance(node, ast.ExceptHandler):
        yield from _mistaken_handlers(node)


def _mistaken_expressions(node: ast.expr, parent: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in COMPARED[type(operator)]:
                    yield _with(node, ops=[*node.ops[:index], other(), *node.ops[index + 1 :]])
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for index in range(len(node.values)):
                left = [*node.values[:index], *node.values[index + 1 :]]
                yield _with(node, values=left) if len(left) > 1 else left[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp() if not (_is_text(node.left) or _is_text(node.right)):
            yield _with(node, op=COMPUTED[type(node.op)]())
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)) if re.fullmatch(r"[\w./*:-]+", value):
            yield ast.Constant(value + "x")
        case ast.Call(func=ast.Name(id=name)) if name in CALLED:
            kept = node.keywords if CALLED[name] != "list" else []
            yield _with(node, func=ast.Name(CALLED[name], ast.Load()), keywords=kept)
        case ast.Call(func=ast.Name(id="suppress")):
            for index in range(len(node.args)):
                yield _with(node, args=[*node.args[:index], *node.args[index + 1 :]])
        case ast.Subscript(slice=ast.Slice(), ctx=ast.Load()):
            yield node.value


def _mistaken_statements(node: ast.stmt, place: _Place) -> Iterator[ast.stmt]:
    match node:
        case ast.Expr() | ast.Raise() | ast.Delete() | ast.Return(value=None):
            yield ast.Pass()
        case ast.Return(value=value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign():
            yield ast.Pass()
            if not _is_text(node.value):
                yield _with(node, op=COMPUTED[type(node.op)]())
        case ast.Assign():
            if place.function is not None and all(_is_bound(target, place.function) for target in node.targets):
                yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
            yield ast.Pass()
        case ast.Try() if node.finalbody and node.handlers:
            yield _with(node, finalbody=[])
        case ast.Try() if node.finalbody:
            yield ast.If(ast.Constant(True), [*node.body], [])


def _mistaken_handlers(node: ast.ExceptHandler) -> Iterator[ast.ExceptHandler]:
    if isinstance(node.type, ast.Tuple):
        kinds = node.type.elts
        for index in range(len(kinds)):
            yield _with(node, type=_with(node.type, elts=[*kinds[:index], *kinds[index + 1 :]]))
    if not isinstance(node.body[0], ast.Raise) or node.body[0].exc is not None:
        yield _with(node, body=[ast.Raise()])


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _is_bound(target: ast.expr, function: ast.FunctionDef) -> bool:
    """Whether what is assigned to has a value before, so that the code goes on without the assignment."""
    match target:
        case ast.Attribute() | ast.Subscript():
            return True
        case ast.Tuple():
            return all(_is_bound(each, function) for each in target.elts)
        case ast.Name(id=name):
            earlier = [
                each
                for each in ast.walk(function)
                if isinstance(each, ast.Name) and each.id == name and isinstance(each.ctx, ast.Store)
            ]
            return any(each.lineno < target.lineno for each in earlier) or name in (
                each.arg for each in function.args.args
            )
    return False


def _with(node: Any, **changed: Any) -> Any:
    other = copy.copy(node)
    for name, value in changed.items():
        setattr(other, name, value)
    return other
