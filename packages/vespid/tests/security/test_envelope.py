import base64
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid.security.envelope import Keyring, KeyringInvalid, TamperedSecret, UnknownKek

ORG = "018f0000-0000-7000-8000-000000000001"
OTHER_ORG = "018f0000-0000-7000-8000-000000000002"
SECRET = "018f0000-0000-7000-8000-0000000000aa"
OTHER_SECRET = "018f0000-0000-7000-8000-0000000000bb"
CANARY = "canary-value-9f2d"


def kek(fill: int) -> str:
    return base64.b64encode(bytes([fill]) * 32).decode()


@pytest.fixture
def keyring() -> Keyring:
    return Keyring.parse("k1", kek(1))


@given(st.text())
def test_what_was_sealed_opens_again(clear: str) -> None:
    keyring = Keyring.parse("k1", kek(1))
    try:
        clear.encode()
    except UnicodeEncodeError:
        return
    assert keyring.open(ORG, SECRET, keyring.seal(ORG, SECRET, clear)).reveal() == clear


@pytest.mark.promise("P7")
def test_the_envelope_does_not_contain_the_value(keyring: Keyring) -> None:
    assert CANARY.encode() not in msgspec.msgpack.encode(keyring.seal(ORG, SECRET, CANARY))


def test_each_write_has_a_data_key_and_nonces_of_its_own(keyring: Keyring) -> None:
    first, second = (keyring.seal(ORG, SECRET, CANARY) for _ in range(2))
    assert first.value_ciphertext != second.value_ciphertext
    assert first.value_nonce != second.value_nonce
    assert first.dek.wrapped_dek != second.dek.wrapped_dek
    assert first.dek.dek_nonce != second.dek.dek_nonce


@pytest.mark.promise("P5")
@pytest.mark.parametrize(("org", "secret"), [(OTHER_ORG, SECRET), (ORG, OTHER_SECRET)])
def test_a_seal_that_was_moved_does_not_open(keyring: Keyring, org: str, secret: str) -> None:
    with pytest.raises(TamperedSecret):
        keyring.open(org, secret, keyring.seal(ORG, SECRET, CANARY))


@pytest.mark.parametrize("field", ["value_ciphertext", "value_nonce"])
def test_an_altered_value_does_not_open(keyring: Keyring, field: str) -> None:
    sealed = keyring.seal(ORG, SECRET, CANARY)
    altered = bytes([getattr(sealed, field)[0] ^ 1]) + getattr(sealed, field)[1:]
    with pytest.raises(TamperedSecret):
        keyring.open(ORG, SECRET, msgspec.structs.replace(sealed, **{field: altered}))


def test_a_data_key_from_another_write_does_not_open_the_value(keyring: Keyring) -> None:
    first, second = (keyring.seal(ORG, SECRET, CANARY) for _ in range(2))
    with pytest.raises(TamperedSecret):
        keyring.open(ORG, SECRET, msgspec.structs.replace(first, dek=second.dek))


def test_an_unknown_kek_is_named(keyring: Keyring) -> None:
    sealed = keyring.seal(ORG, SECRET, CANARY)
    with pytest.raises(UnknownKek) as raised:
        Keyring.parse("k2", kek(2)).open(ORG, SECRET, sealed)
    assert raised.value.kek_id == "k1"


def test_a_previous_kek_opens_and_never_seals(keyring: Keyring) -> None:
    sealed = keyring.seal(ORG, SECRET, CANARY)
    rotated = Keyring.parse("k2", kek(2), f"k0={kek(0)},k1={kek(1)}")
    assert rotated.open(ORG, SECRET, sealed).reveal() == CANARY
    assert rotated.seal(ORG, SECRET, CANARY).dek.kek_id == "k2"


def test_rewrapping_leaves_the_value_and_drops_the_old_kek(keyring: Keyring) -> None:
    sealed = keyring.seal(ORG, SECRET, CANARY)
    rewrapped = Keyring.parse("k2", kek(2), f"k1={kek(1)}").rewrap(ORG, SECRET, sealed.dek)
    moved = msgspec.structs.replace(sealed, dek=rewrapped)
    assert Keyring.parse("k2", kek(2)).open(ORG, SECRET, moved).reveal() == CANARY


@pytest.mark.promise("P7")
def test_a_value_shows_itself_only_when_asked(keyring: Keyring) -> None:
    value = keyring.open(ORG, SECRET, keyring.seal(ORG, SECRET, CANARY))
    assert CANARY not in f"{value} {value!r} {value:>40} {[value]}"
    with pytest.raises(TypeError):
        pickle.dumps(value)
    with pytest.raises(TypeError):
        msgspec.json.encode(value)


@pytest.mark.promise("P7")
def test_a_keyring_does_not_print_its_keys() -> None:
    keyring = Keyring.parse("k1", kek(7))
    assert "\\x07" not in repr(keyring)
    assert "k1" in repr(keyring)


@pytest.mark.parametrize(
    ("kek_id", "encoded", "previous", "variable"),
    [
        ("", kek(1), "", "SECRETS_KEK_ID"),
        ("k1", "not base64!", "", "SECRETS_KEK_BASE64"),
        ("k1", base64.b64encode(b"short").decode(), "", "SECRETS_KEK_BASE64"),
        ("k1", kek(1), "k0", "SECRETS_KEK_PREVIOUS"),
        ("k1", kek(1), "k0=!!", "SECRETS_KEK_PREVIOUS"),
        ("k1", kek(1), f"k1={kek(2)}", "SECRETS_KEK_PREVIOUS"),
    ],
)
def test_a_bad_keyring_names_the_variable_and_not_the_key(
    kek_id: str, encoded: str, previous: str, variable: str
) -> None:
    with pytest.raises(KeyringInvalid, match=variable) as raised:
        Keyring.parse(kek_id, encoded, previous)
    assert not encoded or encoded not in str(raised.value)
