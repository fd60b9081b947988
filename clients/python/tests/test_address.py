"""The address rule is the one that every client and the server share."""

import pytest

from tenantd import InvalidAddress, default_address

from support import contract


@pytest.mark.parametrize("case", contract("address.json")["cases"], ids=str)
def test_the_address_follows_the_shared_rule(case):
    if case.get("error"):
        with pytest.raises(InvalidAddress):
            default_address(case["env"], case["uid"])
    else:
        assert default_address(case["env"], case["uid"]) == case["ok"]
