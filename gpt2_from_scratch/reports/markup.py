"""HTML by construction: text becomes markup in one place, where it is escaped.

The one idea: markup is a type of its own. Whatever is not `Markup` is somebody's text, a class name or a token, and is
escaped when it enters; there is no second place where it could be forgotten.
"""

import html
import math


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


BREAK = Markup("<wbr>")  # where a long name may be broken


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """One element with its content; everything that is not markup is escaped.

    Args:
        name: of the element; none of those that HTML never closes, such as ``br``.
        *content: markup, or anything with a ``str()``; None is nothing.
        **attributes: ``class_`` for ``class``, ``aria_label`` for ``aria-label``; None and False: left out.

    Example:
        >>> tag("td", "<b>", tag("i", 1), class_="x", title=None)
        '<td class="x">&lt;b&gt;<i>1</i></td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{written}>{joined(*content)}</{name}>")


def joined(*content: object) -> Markup:
    """Several pieces, one after the other.

    Example:
        >>> joined("a & b", tag("i", "c"), None)
        'a &amp; b<i>c</i>'
    """
    return Markup(
        "".join(piece if isinstance(piece, Markup) else escaped(piece) for piece in content if piece is not None)
    )


def escaped(value: object) -> Markup:
    """Text as HTML that shows it.

    Example:
        >>> escaped('<script>"')
        '&lt;script&gt;&quot;'
    """
    return Markup(html.escape(visible(str(value))))


def visible(text: str) -> str:
    r"""The text, in which characters that show nothing, or turn their neighbours around, are spelled out.

    Example:
        >>> print(visible("bell" + chr(7) + " and right-to-left" + chr(0x202E)))
        bell\x07 and right-to-left\u202e
    """
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def scientific(value: float) -> str:
    """A number with two digits, as short as it goes.

    Example:
        >>> scientific(1.53e-5), scientific(0.0), scientific(0.25), scientific(float("inf"))
        ('1.5e−5', '0', '0.25', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def times(value: float) -> str:
    """A multiple of the floor.

    Example:
        >>> times(0.937), times(516.94), times(703129.0)
        ('0.937 ×', '517 ×', '7.0e5 ×')
    """
    if not math.isfinite(value):
        return "not finite"
    if value >= 1e5:
        return f"{scientific(value)} ×"
    return f"{value:,.0f} ×" if value >= 100 else f"{value:.3g} ×"
