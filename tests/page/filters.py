"""The filter language of docs/admin-api.md, as far as the page's tests need it."""
import operator
import re

TOKEN = re.compile(r'\s*(?:(\()|(\))|"((?:[^"\\]|\\.)*)"|(<=|>=|!=|=|<|>|~)|([^\s()=!<>~"]+))')
COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
ALONE = {
    "failed": lambda one: one["outcome"] in ("failure", "server_error"),
    "retried": lambda one: one["tries"] > 1,
    "cancelled": lambda one: one["outcome"] == "cancelled",
}
FIELDS = set(
    "at_ms direction parent route peer tls protocol method path outcome status grpc reason fault tries endpoint bytes_in bytes_out ms"
    " before_ms connect_ms server_ms after_ms trace".split()
)


class Wrong(Exception):
    """What is wrong with a filter, and where."""


def tokens(text):
    at, found = 0, []
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if not match:
            raise Wrong(f"at {at}: {text[at:at + 10]!r} is no field, comparison or value")
        begin, end, quoted, compare, word = match.groups()
        kind = "(" if begin else ")" if end else "value" if quoted is not None else "compare" if compare else "word"
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else compare or word
        found.append((kind, value, match.start()))
        at = match.end()
    return found + [("end", "", len(text))]


def compile_filter(text):
    """A function that says whether a record is taken. Raises `Wrong`."""
    if not text.strip():
        return lambda _: True
    rest = tokens(text)

    def either():
        sides = [both()]
        while rest[0][:2] == ("word", "or"):
            rest.pop(0)
            sides.append(both())
        return lambda one: any(side(one) for side in sides)

    def both():
        sides = [single()]
        while rest[0][:2] == ("word", "and"):
            rest.pop(0)
            sides.append(single())
        return lambda one: all(side(one) for side in sides)

    def single():
        kind, value, at = rest.pop(0)
        if kind == "(":
            inner = either()
            if rest.pop(0)[0] != ")":
                raise Wrong(f"at {at}: this parenthesis is not closed")
            return inner
        if (kind, value) == ("word", "not"):
            inner = single()
            return lambda one: not inner(one)
        if kind == "word" and value in ALONE:
            return ALONE[value]
        if kind != "word" or not (value in FIELDS or value.startswith("header.")):
            raise Wrong(f"at {at}: {value!r} is no field; there are {' '.join(sorted(FIELDS))} header.NAME")
        kind, compare, at = rest.pop(0)
        if kind != "compare":
            raise Wrong(f"at {at}: after {value} comes one of = != < <= > >= ~")
        kind, wanted, at = rest.pop(0)
        if kind not in ("value", "word"):
            raise Wrong(f"at {at}: {value}{compare} needs a value")
        return lambda one: matches(one, value, compare, wanted)

    result = either()
    if rest[0][0] != "end":
        raise Wrong(f"at {rest[0][2]}: and, or, or the end is expected")
    return result


def matches(one, field, compare, wanted):
    value = one["headers"].get(field[7:]) if field.startswith("header.") else one[field]
    if field == "status" and re.fullmatch("[1-5]xx", wanted):
        return (value is not None and str(value)[0] == wanted[0]) == (compare == "=")
    if value is None:
        return compare == "!="
    if compare == "~":
        return wanted in str(value)
    if isinstance(value, (int, float)):
        try:
            return COMPARE[compare](value, float(wanted))
        except ValueError:
            raise Wrong(f"{field} is a number, not {wanted!r}") from None
    if field == "peer" and re.fullmatch(r"[\w.-]+/[\w.-]+", wanted):
        wanted = value.partition("/ns/")[0] + "/ns/" + wanted.replace("/", "/sa/")
    return COMPARE[compare](value, wanted)
