"""What can be told before a server starts: all that would stop it, but for what only a framework knows."""

from __future__ import annotations

from digits.errors import SettingError
from serving.access_log import open_access_log
from serving.keys import keys_of
from serving.models import ServedModels
from serving.ports.data_port import listening_sockets
from serving.ports.tls import server_context
from serving.settings import Settings
from serving.tracing import read_exporters


def check_start(settings: Settings, *, port: int) -> None:
    """Looks at what a server with these settings would open, and opens nothing that stays open.

    Args:
        port: BentoML's.

    Raises:
        SamedigitError: what would stop it.
    """
    for data_port, name in ((settings.data_port, "DATA"), (settings.grpc_port, "GRPC")):
        if data_port == port:
            raise SettingError(
                f"BentoML and the data plane cannot both listen on port {port}. Set SAMEDIGIT_{name}_PORT."
            )
    ServedModels(settings).check()
    keys_of(settings)
    server_context(settings)
    read_exporters()
    access_log = open_access_log(settings)
    if access_log is not None:
        access_log.close()
    for listener in listening_sockets(settings, shared=False):  # nobody else has the ports
        listener.close()
