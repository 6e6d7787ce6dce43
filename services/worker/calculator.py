"""Exact arithmetic for models that cannot do sums: numbers and operators, nothing else.

The expression is parsed, never evaluated as code: only the node types below have a
meaning, and every size is bounded before the work is done.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

MAX_EXPRESSION = 300
_MAX_NODES = 150
_MAX_BITS = 4096
_MAX_EXPONENT = 512
_DIGITS = 12
# A letter glued to a digit ("1or 2", "0x10", "2j"): Python's tokenizer only warns about some.
_GLUED = re.compile(r"\d(?:[A-DF-Za-df-z]|[Ee](?![+\-\d]))")


class NotArithmetic(ValueError):
    """The expression is not arithmetic, or too large; the message says what is allowed."""


def calculate(expression: str) -> str:
    """The value of `expression`, exactly when it is rational, else to 12 digits.

    Args:
        expression: Numbers, + - * / // % **, parentheses and abs, min, max, round, sqrt;
            at most 300 characters. `^` is read as `**`.

    Raises:
        NotArithmetic: It is something else, divides by zero, or grows too large.
    """
    if len(expression) > MAX_EXPRESSION:
        raise NotArithmetic(f"the expression is longer than {MAX_EXPRESSION} characters")
    text = expression.replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    if _GLUED.search(text):
        raise NotArithmetic("this is not an arithmetic expression")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NotArithmetic("this is not an arithmetic expression") from None
    if sum(1 for _ in ast.walk(tree)) > _MAX_NODES:
        raise NotArithmetic("the expression has too many parts")
    try:
        return _show(_value(tree.body))
    except ZeroDivisionError:
        raise NotArithmetic("division by zero") from None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _literal(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_call(name, [_value(argument) for argument in args]))
    raise NotArithmetic(
        "only numbers, + - * / // % **, parentheses and abs, min, max, round, sqrt are allowed"
    )


def _literal(number: int | float) -> Fraction:
    if isinstance(number, float) and not math.isfinite(number):
        raise NotArithmetic("a number is too large")
    return _bounded(Fraction(str(number)) if isinstance(number, float) else Fraction(number))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0:
            raise NotArithmetic("a root of a negative number")
        return _inexact(lambda: float(base) ** float(exponent))
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > _MAX_EXPONENT or size * abs(exponent) > _MAX_BITS:
        raise NotArithmetic("the result is too large")
    return Fraction(base ** int(exponent))


def _call(name: str, values: Sequence[Fraction]) -> Fraction:
    low, high, function = _FUNCTIONS[name]
    if not low <= len(values) <= high:
        raise NotArithmetic(f"{name} takes {low} to {high} numbers")
    return function(values)


def _round(values: Sequence[Fraction]) -> Fraction:
    digits = values[1] if len(values) == 2 else Fraction(0)
    if digits.denominator != 1 or abs(digits) > _DIGITS:
        raise NotArithmetic(f"round takes 0 to {_DIGITS} digits")
    return Fraction(round(values[0], int(digits)))


def _sqrt(values: Sequence[Fraction]) -> Fraction:
    value = values[0]
    if value < 0:
        raise NotArithmetic("a root of a negative number")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return root if root * root == value else _inexact(lambda: math.sqrt(value))


def _inexact(compute: Callable[[], float]) -> Fraction:
    try:
        return _literal(compute())
    except OverflowError:
        raise NotArithmetic("the result is too large") from None


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise NotArithmetic("the result is too large")
    return value


def _show(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    try:
        return f"{float(value):.{_DIGITS}g}"
    except OverflowError:
        raise NotArithmetic("the result is too large") from None


_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, tuple[int, int, Callable[[Sequence[Fraction]], Fraction]]] = {
    "abs": (1, 1, lambda values: abs(values[0])),
    "min": (1, 50, min),
    "max": (1, 50, max),
    "round": (1, 2, _round),
    "sqrt": (1, 1, _sqrt),
}
