"""The tenant of a transaction: one setting that every row-level policy reads."""

from uuid import UUID

from vespid_protocol.ids import OrgId

# Policies compare organization_id with this setting; it lasts as long as the transaction.
TENANT_SETTING = "app.current_org_id"


def begin_as(org_id: OrgId) -> str:
    """Answer the statement that begins a transaction of this organization, in one round trip.

    The id goes through `UUID` first, so that nothing but 36 harmless characters reaches the text of the statement.
    Raises ValueError for anything that is not a UUID.
    """
    return f"begin; set local {TENANT_SETTING} = '{UUID(org_id)}'"
