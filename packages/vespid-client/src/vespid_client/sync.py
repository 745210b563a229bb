"""The client for programs that are not async; the same names, the same arguments, the same answers.

with Client("https://vespid.example.com", api_key=key) as client:
    run = client.runs.start(workflow_id, {"name": "Ann"})
    print(run.result().output)
"""

import functools
import os
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from vespid_client.blocking import Face, LoopThread, iterated, listed, waited
from vespid_client.chat import Chat
from vespid_client.client import AsyncClient
from vespid_client.comeback import LineWatch
from vespid_client.conversation import Standing
from vespid_client.credentials import LoginStore
from vespid_client.models.runs import Run
from vespid_client.resources.agents import Agents
from vespid_client.resources.approvals import Approvals
from vespid_client.resources.auth import Auth
from vespid_client.resources.bindings import Bindings
from vespid_client.resources.hooks import Hooks
from vespid_client.resources.memory import Memory
from vespid_client.resources.meta import Meta
from vespid_client.resources.orgs import ApiKeys, Audit, Invitations, Members, Orgs, Settings
from vespid_client.resources.runs import Runs
from vespid_client.resources.secrets import Secrets
from vespid_client.resources.sessions import Sessions
from vespid_client.resources.usage import Usage
from vespid_client.resources.workflows import Workflows
from vespid_client.retries import Retries
from vespid_client.run_handle import RunHandle

A = TypeVar("A")
P = ParamSpec("P")


class SyncRunHandle(Face[RunHandle]):
    """See RunHandle."""

    @property
    def id(self) -> str:
        """Of the run."""
        return self._inner.id

    @property
    def accepted(self) -> Run | None:
        """As the server accepted it; None where this client did not start it."""
        return self._inner.accepted

    def __repr__(self) -> str:
        return repr(self._inner)

    def retry(self, *, from_node_id: str | None = None, idempotency_key: str | None = None) -> "SyncRunHandle":
        """See RunHandle."""
        retried = self._inner.retry(from_node_id=from_node_id, idempotency_key=idempotency_key)
        return SyncRunHandle(self._loop, self._loop.run(retried))

    get = waited(RunHandle.get)
    follow = iterated(RunHandle.follow)
    result = waited(RunHandle.result)
    cancel = waited(RunHandle.cancel)
    output = waited(RunHandle.output)
    events = listed(RunHandle.events)
    attempts = listed(RunHandle.attempts)


class SyncChat(Face[Chat]):
    """See Chat: `with client.sessions.chat(session_id) as chat`."""

    @property
    def session_id(self) -> str:
        """Of the session."""
        return self._inner.session_id

    @property
    def standing(self) -> Standing | None:
        """Where the session lives; None until it was told."""
        return self._inner.standing

    def __enter__(self) -> Self:
        self._loop.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._inner.__aexit__(kind, error, trace))

    ask = iterated(Chat.ask)
    say = waited(Chat.say)
    events = iterated(Chat.events)


def _handled(
    method: Callable[Concatenate[A, P], Awaitable[RunHandle]],
) -> Callable[Concatenate[Face[A], P], SyncRunHandle]:
    """A method that answers a run."""
    answered = waited(method)

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> SyncRunHandle:
        return SyncRunHandle(self._loop, answered(self, *args, **kwargs))

    return call


class SyncAuth(Face[Auth]):
    """See Auth."""

    signup = waited(Auth.signup)
    login = waited(Auth.login)
    refresh = waited(Auth.refresh)
    logout = waited(Auth.logout)
    logout_all = waited(Auth.logout_all)
    access_token = waited(Auth.access_token)


class SyncOrgs(Face[Orgs]):
    """See Orgs."""

    list = waited(Orgs.list)
    create = waited(Orgs.create)


class SyncMembers(Face[Members]):
    """See Members."""

    list = listed(Members.list)
    set_role = waited(Members.set_role)
    remove = waited(Members.remove)


class SyncInvitations(Face[Invitations]):
    """See Invitations."""

    list = listed(Invitations.list)
    create = waited(Invitations.create)
    revoke = waited(Invitations.revoke)
    accept = waited(Invitations.accept)


class SyncApiKeys(Face[ApiKeys]):
    """See ApiKeys."""

    list = listed(ApiKeys.list)
    create = waited(ApiKeys.create)
    revoke = waited(ApiKeys.revoke)


class SyncSettings(Face[Settings]):
    """See Settings."""

    get = waited(Settings.get)
    update = waited(Settings.update)


class SyncAudit(Face[Audit]):
    """See Audit."""

    list = listed(Audit.list)


class SyncAgents(Face[Agents]):
    """See Agents."""

    list = listed(Agents.list)
    get = waited(Agents.get)
    pairing_token = waited(Agents.pairing_token)
    pairing_token_state = waited(Agents.pairing_token_state)
    set_tags = waited(Agents.set_tags)
    cordon = waited(Agents.cordon)
    uncordon = waited(Agents.uncordon)
    revoke = waited(Agents.revoke)
    rotate_token = waited(Agents.rotate_token)
    installer = waited(Agents.installer)


class SyncSecrets(Face[Secrets]):
    """See Secrets."""

    list = listed(Secrets.list)
    create = waited(Secrets.create)
    replace = waited(Secrets.replace)
    delete = waited(Secrets.delete)


class SyncWorkflows(Face[Workflows]):
    """See Workflows."""

    list = listed(Workflows.list)
    get = waited(Workflows.get)
    create = waited(Workflows.create)
    update = waited(Workflows.update)
    publish = waited(Workflows.publish)
    new_draft = waited(Workflows.new_draft)
    revisions = listed(Workflows.revisions)
    validate = waited(Workflows.validate)
    graph = waited(Workflows.graph)
    rotate_webhook = waited(Workflows.rotate_webhook)


class SyncRuns(Face[Runs]):
    """See Runs."""

    def handle(self, run_id: str, workflow_id: str | None = None) -> SyncRunHandle:
        """See Runs."""
        return SyncRunHandle(self._loop, self._inner.handle(run_id, workflow_id))

    start = _handled(Runs.start)
    list = listed(Runs.list)
    get = waited(Runs.get)
    cancel = waited(Runs.cancel)
    retry = _handled(Runs.retry)
    events = listed(Runs.events)
    attempts = listed(Runs.attempts)
    output = waited(Runs.output)


class SyncSessions(Face[Sessions]):
    """See Sessions."""

    def chat(self, session_id: str, *, after_seq: int | None = None) -> SyncChat:
        """See Sessions."""
        return SyncChat(self._loop, self._inner.chat(session_id, after_seq=after_seq))

    create = waited(Sessions.create)
    list = listed(Sessions.list)
    get = waited(Sessions.get)
    rename = waited(Sessions.rename)
    send = waited(Sessions.send)
    cancel = waited(Sessions.cancel)
    reset = waited(Sessions.reset)
    events = listed(Sessions.events)


class SyncBindings(Face[Bindings]):
    """See Bindings."""

    list = listed(Bindings.list)
    create = waited(Bindings.create)
    update = waited(Bindings.update)
    delete = waited(Bindings.delete)


class SyncApprovals(Face[Approvals]):
    """See Approvals."""

    list = listed(Approvals.list)
    get = waited(Approvals.get)
    approve = waited(Approvals.approve)
    deny = waited(Approvals.deny)


class SyncUsage(Face[Usage]):
    """See Usage."""

    report = waited(Usage.report)
    list = listed(Usage.list)


class SyncMemory(Face[Memory]):
    """See Memory."""

    search = waited(Memory.search)
    docs = listed(Memory.docs)
    get = waited(Memory.get)
    sync = waited(Memory.sync)


class SyncHooks(Face[Hooks]):
    """See Hooks."""

    deliver = waited(Hooks.deliver)


class SyncMeta(Face[Meta]):
    """See Meta."""

    capabilities = waited(Meta.capabilities)
    connectors = waited(Meta.connectors)
    engines = waited(Meta.engines)


class Client(Face[AsyncClient]):
    """See AsyncClient. Usable from several threads; a login store and a watch are called on the client's own."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        access_token: str | None = None,
        credentials: LoginStore | None = None,
        org: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        ssl: ssl.SSLContext | None = None,
        user_agent: str | None = None,
        gateway_ws_url: str | None = None,
        watch: LineWatch | None = None,
    ) -> None:
        inner = AsyncClient(
            base_url,
            api_key=api_key,
            access_token=access_token,
            credentials=credentials,
            org=org,
            timeout=timeout,
            retries=retries,
            ca_file=ca_file,
            ssl=ssl,
            user_agent=user_agent,
            gateway_ws_url=gateway_ws_url,
            watch=watch,
        )
        loop = LoopThread()
        super().__init__(loop, inner)
        self.auth = SyncAuth(loop, inner.auth)
        self.orgs = SyncOrgs(loop, inner.orgs)
        self.members = SyncMembers(loop, inner.members)
        self.invitations = SyncInvitations(loop, inner.invitations)
        self.api_keys = SyncApiKeys(loop, inner.api_keys)
        self.settings = SyncSettings(loop, inner.settings)
        self.audit = SyncAudit(loop, inner.audit)
        self.agents = SyncAgents(loop, inner.agents)
        self.secrets = SyncSecrets(loop, inner.secrets)
        self.workflows = SyncWorkflows(loop, inner.workflows)
        self.runs = SyncRuns(loop, inner.runs)
        self.sessions = SyncSessions(loop, inner.sessions)
        self.bindings = SyncBindings(loop, inner.bindings)
        self.approvals = SyncApprovals(loop, inner.approvals)
        self.usage = SyncUsage(loop, inner.usage)
        self.memory = SyncMemory(loop, inner.memory)
        self.hooks = SyncHooks(loop, inner.hooks)
        self.meta = SyncMeta(loop, inner.meta)

    @property
    def base_url(self) -> str:
        """Where the installation is."""
        return self._inner.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections, and end its thread."""
        self._loop.run(self._inner.close())
        self._loop.stop()

    me = waited(AsyncClient.me)
    org_id = waited(AsyncClient.org_id)
    overview = waited(AsyncClient.overview)
    changes = iterated(AsyncClient.changes)
    call = waited(AsyncClient.call)
