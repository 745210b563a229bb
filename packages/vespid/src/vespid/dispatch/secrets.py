"""The values of the secrets that one request names, for the one moment in which it is sent or run."""

import msgspec

from vespid.security.envelope import EnvelopeError, SecretValue
from vespid.store.executions import SecretRefs
from vespid.store.secrets import SecretResolver, SecretsNotConfigured
from vespid_protocol.codes import Code
from vespid_protocol.ids import OrgId

_decode_refs = msgspec.json.Decoder(SecretRefs).decode


class SecretUnavailable(Exception):
    """A secret cannot be had: `code` of the contract, and a message that names the id, never a value."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RequestSecrets(msgspec.Struct, frozen=True):
    """Values in memory; their repr hides them."""

    # What travels as `execute.secret`.
    auth: SecretValue | None = None
    # By id, what `{{secrets.<id>}}` names.
    named: dict[str, SecretValue] = {}

    def clear_values(self) -> list[str]:
        """Every value, for the redactor."""
        values = [value.reveal() for value in self.named.values()]
        return values if self.auth is None else [self.auth.reveal(), *values]


async def resolve(resolver: SecretResolver, org_id: OrgId, stored_refs: bytes | None) -> RequestSecrets:
    """The values of this moment. Raises SecretUnavailable."""
    if stored_refs is None:
        return RequestSecrets()
    refs = _decode_refs(stored_refs)
    named = {secret_id: await _value(resolver, org_id, secret_id) for secret_id in refs.named}
    if refs.auth is None:
        return RequestSecrets(None, named)
    auth = named.get(refs.auth) or await _value(resolver, org_id, refs.auth)
    return RequestSecrets(auth, named)


async def _value(resolver: SecretResolver, org_id: OrgId, secret_id: str) -> SecretValue:
    try:
        value = await resolver.resolve(org_id, secret_id)
    except SecretsNotConfigured:
        raise SecretUnavailable("SECRETS_NOT_CONFIGURED", "this server was given no SECRETS_KEK_*") from None
    except EnvelopeError as error:
        # The error of the envelope names keys, not values.
        raise SecretUnavailable("SECRETS_NOT_CONFIGURED", f"secret {secret_id} cannot be opened: {error}") from error
    if value is None:
        raise SecretUnavailable(Code.SECRET_NOT_FOUND, f"there is no secret {secret_id}")
    return value
