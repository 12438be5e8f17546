"""Values of many rows as a table, so that one statement writes them all: `unnest` of one array for each column."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Table, TableValuedAlias, column, func, literal
from sqlalchemy.types import TypeEngine


def given(model: Any, /, **columns: Sequence[Any]) -> TableValuedAlias:
    """Columns of `model`, row by row as they stand in the lists; their types are the model's."""
    table: Table = model.__table__
    return given_as(**{name: (table.c[name].type, values) for name, values in columns.items()})


def given_as(**columns: tuple[TypeEngine[Any], Sequence[Any]]) -> TableValuedAlias:
    """Columns of the types that stand beside their values."""
    arrays = [literal(list(values), ARRAY(kind, dimensions=1)) for kind, values in columns.values()]
    described = [column(name, kind) for name, (kind, _values) in columns.items()]
    return func.unnest(*arrays).table_valued(*described, name="given").render_derived()
