"""Random schemas whose answers are short, and a judge of answers that knows nothing of grammars."""

from hypothesis import strategies as st

names = st.sampled_from(["a", "name", "城市", 'quo"te', "x y", "back\\slash"])
scalars = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-50, 50),
        st.integers(0, 300),
    ),
    st.integers(0, 6).map(lambda size: {"type": "string", "maxLength": size}),
    st.lists(st.sampled_from(["x", "yes", "是", 3, None, 1.5]), min_size=1, unique_by=repr).map(
        lambda values: {"enum": values}
    ),
    st.just({"type": "string", "pattern": "^[a-c]{2}-[0-9]$"}),
)


def _objects(children):
    def build(properties, required):
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in required],
            "additionalProperties": False,
        }

    return st.builds(build, st.dictionaries(names, children, max_size=4), st.sets(names))


def _arrays(children):
    return st.builds(
        lambda items, low, more: {
            "type": "array",
            "items": items,
            "minItems": low,
            "maxItems": low + more,
        },
        children,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def _choices(children):
    return st.lists(children, min_size=1, max_size=3).map(lambda some: {"anyOf": some})


schemas = st.recursive(
    scalars,
    lambda children: st.one_of(_objects(children), _arrays(children), _choices(children)),
    max_leaves=6,
)


def is_valid(value, schema):
    if "anyOf" in schema:
        return any(is_valid(value, some) for some in schema["anyOf"])
    if "enum" in schema:
        return any(value == known and type(value) is type(known) for known in schema["enum"])
    kind = schema["type"]
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind == "integer":
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return is_number and schema["minimum"] <= value <= schema["maximum"]
    if kind == "string":
        if not isinstance(value, str):
            return False
        if "pattern" in schema:
            return len(value) == 4 and set(value[:2]) <= set("abc") and value[3].isdigit()
        return len(value) <= schema["maxLength"]
    if kind == "array":
        fits = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
        return fits and all(is_valid(item, schema["items"]) for item in value)
    return (
        isinstance(value, dict)
        and set(schema["required"]) <= set(value) <= set(schema["properties"])
        and all(is_valid(item, schema["properties"][name]) for name, item in value.items())
    )
