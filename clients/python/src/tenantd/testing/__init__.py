"""A sidecar for tests: `pip install tenantd[testing]`.

`Sidecar` runs the real binary on a socket of its own, `FakeSidecar` answers on one from
inside the process, without the binary and with a clock that the test moves. Both take the
config as a dict and are used the same way:

    with Sidecar({"tenants": {"acme": {"cap": 2}}}) as sidecar:
        with tenantd.connect_sync(sidecar.address) as td:
            ...
"""

from tenantd.testing.fake import FakeSidecar
from tenantd.testing.sidecar import Sidecar

__all__ = ["FakeSidecar", "Sidecar"]
