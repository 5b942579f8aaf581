"""Thousands of users come and go, and the catalogs of those who give them their rights stay as they were (D-19)."""

import asyncio
import os

import pytest

from tests.integration.postgres.site import NEWEST, ROLE, Site, fresh

LONG = bool(os.environ.get("LEASEHOLD_TEST_LONG"))
CYCLES = 3000 if LONG else 30
AT_ONCE = 4


@NEWEST
@pytest.mark.timeout(600 if LONG else 60)
async def test_rights_on_tables_grow_with_no_user(site: Site):
    """`make majors` goes through 3,000 on the newest, beyond the 2,350 at which direct grants stop all issuing."""
    engine = site.engine()
    size = "SELECT pg_column_size(relacl), relacl::text FROM pg_class WHERE oid = 'public.reports'::regclass"
    before, memberships = site.database.execute(size), site.memberships()
    left = iter(range(CYCLES))

    async def worker() -> None:
        for _ in left:
            grant = await engine.issue(ROLE, fresh())
            await engine.revoke(grant.id)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    assert site.database.execute(size) == before
    assert [one for one in site.memberships() if "leasehold_lease" not in one] == memberships
    assert site.users() == set()
    assert site.rows() == CYCLES
