"""Logins: exchanged before they run out and after they were refused, rotated into a store that others use too."""

import asyncio
import time

import msgspec
import pytest
from tests.support.client_stack import PASSWORD, Installed, new_email, over_a_line

from vespid_client import AsyncClient, Conflict, Login, MemoryStore, NotSignedIn, VespidError


def without_token(login: Login | None) -> MemoryStore:
    assert login is not None
    return MemoryStore(Login(refresh_token=login.refresh_token, email=login.email))


async def test_a_login_is_handed_to_the_store_and_serves_another_process(installed: Installed) -> None:
    email, store = new_email(), MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as first:
        user = await first.auth.signup(email, PASSWORD, "Ann")
        assert (user.email, user.display_name) == (email, "Ann")
        with pytest.raises(Conflict):
            await first.auth.signup(email, PASSWORD)
    later = without_token(store.load())
    async with AsyncClient(installed.url, credentials=later) as second:
        assert (await second.me()).user == user
    before, after = store.load(), later.load()
    assert before is not None
    assert after is not None
    assert after.refresh_token != before.refresh_token
    assert after.email == email


async def test_of_many_calls_at_once_one_exchanges(installed: Installed) -> None:
    email, store = new_email(), MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        await client.auth.signup(email, PASSWORD)
        login = store.load()
        assert login is not None
        tokens: list[str] = []
        kept = without_token(login)
        saved = kept.save
        kept.save = lambda login: (tokens.append(login.access_token or ""), saved(login))[1]  # type: ignore
    async with AsyncClient(installed.url, credentials=kept) as many:
        people = await asyncio.gather(*(many.me() for _ in range(10)))
    assert {me.user.email for me in people} == {email}
    assert len(tokens) == 1


async def test_two_processes_that_exchange_the_same_login_both_go_on(installed: Installed) -> None:
    store = MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        await client.auth.signup(new_email(), PASSWORD)
    one, two = without_token(store.load()), without_token(store.load())
    async with AsyncClient(installed.url, credentials=one) as a, AsyncClient(installed.url, credentials=two) as b:
        await asyncio.gather(a.me(), b.me())
        assert (await a.auth.refresh()).id == (await b.auth.refresh()).id


async def test_a_token_is_exchanged_before_it_runs_out(installed: Installed) -> None:
    store = MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        await client.auth.signup(new_email(), PASSWORD)
        login = store.load()
        assert login is not None
        await client.me()
        assert store.load() == login
        store.save(msgspec.structs.replace(login, access_expires_at=int(time.time()) + 30))
        await client.me()
        exchanged = store.load()
        assert exchanged is not None
        assert exchanged.refresh_token != login.refresh_token


async def test_a_refused_token_is_renewed_once_and_the_call_made_again(installed: Installed) -> None:
    store = MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        await client.auth.signup(new_email(), PASSWORD)
        login = store.load()
        assert login is not None
        broken = Login(refresh_token=login.refresh_token, access_token="x", access_expires_at=2**40)
        store.save(broken)
        assert (await client.me()).user.email == login.email
        # The stream too.
        nodes = [{"id": "a", "type": "agent.execute"}]
        dsl = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": nodes}
        workflow = await client.workflows.create("w", dsl)
        await client.workflows.publish(workflow.id)
        run = await client.runs.start(workflow.id)
        await run.cancel()
        now = store.load()
        assert now is not None
        store.save(Login(refresh_token=now.refresh_token, access_token="y", access_expires_at=2**40))
        assert [event async for event in run.follow()][-1].event_type == "run_cancelled"


async def test_a_login_that_another_process_has_rotated_is_read_again(installed: Installed) -> None:
    store = MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        await client.auth.signup(new_email(), PASSWORD)
        good = store.load()

        class Shared(MemoryStore):
            """What it answers first is of a login that is over; another process has signed in again since."""

            answers = iter((Login(refresh_token="over"), good))

            def load(self) -> Login | None:
                return next(self.answers, None) or super().load()

        async with AsyncClient(installed.url, credentials=Shared()) as other:
            assert (await other.auth.refresh()).email == (await client.me()).user.email


async def test_an_installation_at_another_address_than_its_pages_takes_a_login(installed: Installed) -> None:
    store = MemoryStore()
    async with over_a_line(installed, credentials=store) as (client, _line):
        user = await client.auth.signup(new_email(), PASSWORD)
        assert (await client.auth.refresh()).id == user.id


async def test_a_login_that_is_over_is_forgotten(installed: Installed) -> None:
    store = MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        email = new_email()
        await client.auth.signup(email, PASSWORD)
        copy = without_token(store.load())
        await client.auth.login(email, PASSWORD)
        assert await client.auth.logout_all() == 2
        assert store.load() is None
        with pytest.raises(NotSignedIn, match="Nobody is signed in"):
            await client.me()
    async with AsyncClient(installed.url, credentials=copy) as other:
        with pytest.raises(NotSignedIn):
            await other.me()
        assert copy.load() is None


async def test_signing_out_ends_the_login(installed: Installed) -> None:
    store = MemoryStore()
    async with AsyncClient(installed.url, credentials=store) as client:
        await client.auth.signup(new_email(), PASSWORD)
        token = await client.auth.access_token()
        await client.auth.logout()
    async with AsyncClient(installed.url, access_token=token) as late:
        with pytest.raises(NotSignedIn):
            await late.me()
        with pytest.raises(VespidError, match="credential of its own"):
            await late.auth.login("a@example.com", PASSWORD)


async def test_a_wrong_password_is_told(installed: Installed) -> None:
    async with AsyncClient(installed.url) as client:
        with pytest.raises(NotSignedIn) as refused:
            await client.auth.login(new_email(), PASSWORD)
    assert refused.value.code == "UNAUTHORIZED"
