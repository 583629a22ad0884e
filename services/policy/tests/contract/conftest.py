"""The stores that must all behave alike. PostgreSQL joins when a test database is named.

`CARAVAN_TEST_POSTGRES_URL=postgresql+psycopg://user:password@host/database` runs the suite there
too; everything in its schema `public` is dropped.
"""

import os
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy

from caravan_policy.storage.database import open_database
from caravan_policy.storage.sql_reader import SqlReader
from caravan_policy.storage.sql_writer import SqlWriter

POSTGRES_URL = os.environ.get("CARAVAN_TEST_POSTGRES_URL", "")


@dataclass
class Store:
    reader: Any
    writer: Any


def _sql_store(url):
    engine = open_database(url)
    yield Store(SqlReader(engine), SqlWriter(engine))
    engine.dispose()


def _empty_postgres():
    engine = sqlalchemy.create_engine(POSTGRES_URL)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def any_store(request, tmp_path):
    if request.param == "memory":
        store = request.getfixturevalue("store")
        yield Store(store, store)
    elif request.param == "sqlite":
        yield from _sql_store(f"sqlite:///{tmp_path}/policy.db")
    elif not POSTGRES_URL:
        pytest.skip("needs CARAVAN_TEST_POSTGRES_URL")
    else:
        _empty_postgres()
        yield from _sql_store(POSTGRES_URL)
