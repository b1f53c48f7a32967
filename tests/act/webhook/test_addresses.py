"""Where a webhook may lead."""

from __future__ import annotations

import pytest

from lec_guard.act.webhook.addresses import check_addresses, is_this_machine, literal, system_resolver
from lec_guard.act.webhook.errors import WebhookError
from lec_guard.policy import reach

NAME = "hooks.example.com"


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "10.1.2.3",
        "192.168.0.9",
        "172.16.0.1",
        "fd12:3456::1",
        "2606:2800:220:1::1",
        "64:ff9b::808:808",
    ],
)
def test_public_and_private_addresses_are_fine(address):
    assert check_addresses(NAME, [address]) == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "no address",
        "2852039166",
        "",
    ],
)
def test_others_are_not(address):
    with pytest.raises(WebhookError):
        check_addresses(NAME, [address])
    with pytest.raises(WebhookError):
        check_addresses(NAME, ["93.184.216.34", address])


def test_what_no_policy_may_name_no_name_may_lead_to():
    # Two lists, for the rooms do not know each other.
    for address in reach._METADATA_ADDRESSES:
        with pytest.raises(WebhookError):
            check_addresses(NAME, [str(address)])


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_a_url_may_name_this_machine(host):
    assert is_this_machine(host)
    assert check_addresses(host, ["127.0.0.1", "::1"]) == ("127.0.0.1", "::1")
    for address in ("169.254.169.254", "0.0.0.0", "::ffff:169.254.169.254"):
        with pytest.raises(WebhookError):
            check_addresses(host, [address])


@pytest.mark.parametrize("host", ["localhost.example.com", "localhost.", "127.0.0.1.example.com", "0", "10.0.0.1"])
def test_others_do_not(host):
    assert not is_this_machine(host)
    with pytest.raises(WebhookError):
        check_addresses(host, ["127.0.0.1"])


def test_no_more_than_some_are_tried():
    many = [f"10.0.0.{at}" for at in range(20)]
    assert check_addresses(NAME, many) == tuple(many[:8])
    # All are looked at.
    with pytest.raises(WebhookError):
        check_addresses(NAME, [*many, "169.254.169.254"])


def test_a_host_that_is_an_address_is_known():
    assert literal("10.0.0.1") == "10.0.0.1"
    assert literal("[::1]") == "::1"
    assert literal("hooks.example.com") is None
    assert literal("0x7f000001") is None


def test_the_system_is_asked():
    assert system_resolver("127.0.0.1", 80) == ["127.0.0.1"]
