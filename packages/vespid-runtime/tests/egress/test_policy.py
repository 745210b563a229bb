"""Which addresses, hosts and URLs each profile takes."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_runtime.egress import EgressDenied, EgressGuard, EgressInvalid, EgressPolicy, EgressRefused

_INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.127.255.255", "169.254.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "2001::1", "2002:7f00:1::", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::127.0.0.1", "64:ff9b::a00:1",
    "64:ff9b:1::1", "::127.0.0.1", "3fff::1", "5f00::1",
]  # fmt: skip
_METADATA = [
    "169.254.169.254", "169.254.170.2", "fe80::a9fe:a9fe", "fd00:ec2::254", "fd20:ce::254", "168.63.129.16",
    "100.100.100.200", "192.0.0.192", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    "64:ff9b:1:a9fe:a9:fe00::",
]  # fmt: skip
_OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.63.255.255",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
]


def refusal(policy: EgressPolicy, address: str, host: str = "h.example", port: int = 443) -> str | None:
    return policy.refusal(host, ip_address(address), port)


@pytest.mark.parametrize("address", _INSIDE + _METADATA)
def test_cloud_refuses_what_is_not_public(address: str) -> None:
    assert refusal(EgressPolicy.cloud(), address) is not None


@pytest.mark.parametrize("address", _OUTSIDE)
def test_both_profiles_take_public_addresses(address: str) -> None:
    assert refusal(EgressPolicy.cloud(), address) is None
    assert refusal(EgressPolicy.agent(), address) is None


@pytest.mark.parametrize("address", _METADATA)
def test_agent_refuses_metadata_even_where_its_list_has_it(address: str) -> None:
    assert refusal(EgressPolicy.agent(), address) is not None
    assert refusal(EgressPolicy.agent("0.0.0.0/0, ::/0, *.example"), address) is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fd12::1", "100.64.0.1"])
def test_agent_takes_its_own_network(address: str) -> None:
    assert refusal(EgressPolicy.agent(), address) is None


def test_agent_list_narrows() -> None:
    policy = EgressPolicy.agent("db.example:5432, 10.1.0.0/16, *.corp.example")
    assert refusal(policy, "10.1.2.3") is None
    assert refusal(policy, "10.2.2.3") is not None
    assert refusal(policy, "9.9.9.9", host="db.example", port=5432) is None
    assert refusal(policy, "9.9.9.9", host="db.example", port=5433) is not None
    assert refusal(policy, "9.9.9.9", host="a.corp.example") is None
    assert refusal(policy, "9.9.9.9", host="corp.example") is not None
    assert refusal(policy, "9.9.9.9", host="evilcorp.example") is not None


def test_cloud_list_widens_by_host_address_network_and_port() -> None:
    policy = EgressPolicy.cloud("internal.example:8443, 10.1.0.0/16:5432, [fd00::/8]:443, 127.0.0.1")
    assert refusal(policy, "10.9.9.9", host="internal.example", port=8443) is None
    assert refusal(policy, "10.9.9.9", host="internal.example", port=443) is not None
    assert refusal(policy, "10.1.9.9", port=5432) is None
    assert refusal(policy, "10.1.9.9", port=80) is not None
    assert refusal(policy, "::ffff:10.1.9.9", port=5432) is None
    assert refusal(policy, "fd00::7") is None
    assert refusal(policy, "127.0.0.1", port=1) is None
    assert refusal(policy, "127.0.0.2", port=1) is not None


@pytest.mark.parametrize("text", ["host:0", "host:99999", "10.0.0.0/33", "a b", "host:port", "http://x", "*", "[::1"])
def test_list_that_is_not_understood_is_refused_by_entry(text: str) -> None:
    with pytest.raises(ValueError, match="egress allow list"):
        EgressPolicy.cloud(f"good.example, {text}")


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    "url",
    [
        "http://user:pw@example.com/", "http://user@example.com/", "http://:@example.com", "http://example.com:0/",
        "http://example.com:99999/", "http://example.com:80:80/", "http://2130706433/", "http://0x7f000001/",
        "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1./", "http://1.2.3.4.5/",
        "http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://127%2e0.0.1/", "http://evil\\@127.0.0.1/",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "unix:///var/run/docker.sock", "file:///etc/passwd", "gopher://x/",
        "ftp://example.com/", "//example.com/", "example.com", "", "http://", "http:///path", "http://exa mple.com/",
        "http://example.com/\r\nX: y", "http://\0example.com/", "http://-/", "http://a..b/", "http://[1.2.3.4]:x/",
    ],
)  # fmt: skip
def test_hostile_urls_are_refused_in_every_profile(url: str) -> None:
    for policy in (EgressPolicy.cloud(), EgressPolicy.agent()):
        with pytest.raises(EgressInvalid):
            EgressGuard(policy).check_url(url)


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://[::1]/", "http://①②⑦.⓪.⓪.①/", "http://[::ffff:7f00:1]/", "http://169.254.169.254/",
        "http://[64:ff9b::7f00:1]/", "http://0.0.0.0/", "http://example.com:25/", "http://example.com:22/",
    ],
)  # fmt: skip
def test_cloud_refuses_literal_inner_addresses_and_ports_of_mail(url: str) -> None:
    with pytest.raises(EgressDenied):
        EgressGuard(EgressPolicy.cloud()).check_url(url)


@pytest.mark.promise("P10")
@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused_and_never_an_accident(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/path", f"http://host:{text}"):
        try:
            EgressGuard(EgressPolicy.cloud()).check_url(url)
        except EgressRefused:
            continue
