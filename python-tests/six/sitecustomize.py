"""On the path of test programs that are run with FAMILY=6: a server that names no family is one of IPv6."""

import os
import socket

if os.environ.get("FAMILY") == "6":
    create_server = socket.create_server

    def of_six(address, *, family=socket.AF_INET6, **options):
        host, port = address[:2]
        return create_server(({"127.0.0.1": "::1"}.get(host, host), port), family=family, **options)

    socket.create_server = of_six
