"""Every small fault that is made in a file, one at a time. Pure."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

_FLIPPED: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_SWAPPED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_OTHER_CALL: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_CHANGES: Final = {"replace", "update_worker", "update_node", "update_group", "update_cluster"}
"""Functions whose keyword arguments are changes: each is left out."""
_LOGS: Final = {"log"}
_NO_CODE: Final = {"annotation", "returns", "bases", "decorator_list", "type_params"}
"""Fields that decide nothing."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault in a source: its number among them, where it is, what stands there and what instead."""

    number: int
    line: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """The fault in words, without its line, which moves with every edit."""
        return f"{self.before} -> {self.after}"


def mutants(source: str) -> list[Mutant]:
    """All faults that are made in a source."""
    found = []
    for number, (node, change) in enumerate(_sites(ast.parse(source))):
        before = _text(node)
        undo, shown = change()
        found.append(Mutant(number, node.lineno, before, _text(shown)))  # type: ignore[attr-defined]
        undo()
    return found


def with_fault(source: str, number: int) -> str:
    """The whole source with one of its faults."""
    tree = ast.parse(source)
    _, change = next(islice(_sites(tree), number, None))
    change()
    return ast.unparse(tree)


Undo = Callable[[], None]
Change = Callable[[], tuple[Undo, ast.AST]]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(node).split())[:150]


def _sites(tree: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """Every place with a fault to be made there, in the order of the source."""
    for name, value in ast.iter_fields(tree):
        if name in _NO_CODE or (name == "keywords" and isinstance(tree, ast.ClassDef)):
            continue
        children = value if isinstance(value, list) else [value]
        for at, child in enumerate(children):
            # Texts for people are not held word for word.
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            for new in _variants(child):
                yield child, _put(tree, name, at if isinstance(value, list) else None, new)
            yield from _shortened(child)
            yield from _sites(child)


def _put(parent: ast.AST, name: str, at: int | None, new: ast.AST) -> Change:
    def change() -> tuple[Undo, ast.AST]:
        held = getattr(parent, name)
        before = held if at is None else held[at]

        def put(node: object) -> None:
            if at is None:
                setattr(parent, name, node)
            else:
                held[at] = node

        put(ast.fix_missing_locations(ast.copy_location(new, before)))
        return (lambda: put(before)), new

    return change


def _shortened(node: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """One element, operand, row or change less."""
    held: list[ast.expr] | list[ast.keyword] = []
    if isinstance(node, ast.Set | ast.BoolOp):
        held = node.elts if isinstance(node, ast.Set) else node.values
    elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load) and len(node.elts) > 2:
        held = node.elts
    elif isinstance(node, ast.Call) and _called(node) in _CHANGES:
        held = node.keywords
    for at in range(len(held)):
        yield node, _without(node, held, at)


def _without(node: ast.AST, held: list[ast.expr] | list[ast.keyword], at: int) -> Change:
    def change() -> tuple[Undo, ast.AST]:
        gone = held.pop(at)
        return (lambda: held.insert(at, gone)), node  # type: ignore[arg-type]

    return change


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(ops=[op]):
            for other in _FLIPPED[type(op)]:
                yield ast.Compare(node.left, [other()], node.comparators)
        case ast.BoolOp(op=op):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp(op=op) if type(op) in _SWAPPED:
            yield ast.BinOp(node.left, _SWAPPED[type(op)](), node.right)
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)  # type: ignore[operator]
        case ast.Call(func=ast.Name(id=name)) if name in _OTHER_CALL:
            yield ast.Call(ast.Name(_OTHER_CALL[name]), node.args, node.keywords)
        case ast.If() | ast.IfExp() | ast.While():
            yield from _decided(node)
        case ast.Return(value=ast.expr()) if not _is_false(node.value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) if not _is_log(node.value):
            yield ast.Pass()
        case ast.Expr(value=ast.Yield() | ast.YieldFrom() | ast.Await()) | ast.AugAssign() | ast.Continue():
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()


def _decided(node: ast.If | ast.IfExp | ast.While) -> Iterator[ast.AST]:
    if isinstance(node, ast.If):
        yield ast.If(ast.Constant(True), node.body, node.orelse)
        yield ast.If(ast.Constant(False), node.body, node.orelse)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse


def _is_false(node: ast.AST | None) -> bool:
    """Whether None would be the same where only the truth of it is asked for."""
    return isinstance(node, ast.Constant) and node.value in (None, False)


def _is_log(node: ast.AST) -> bool:
    func = node.func if isinstance(node, ast.Call) else None
    return isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id in _LOGS
