"""How to reach the API server. The Kubernetes client reads kubeconfigs, exec plugins and the pod's account; requests are our own (client.py)."""

from __future__ import annotations

import os
import ssl
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from skerry_operator import errors

_HOME_CONFIG = "~/.kube/config"


class Access:
    """Where the API server is, and who we are."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self.server: str = configuration.host.rstrip("/")
        self.ca_path: str | None = configuration.ssl_ca_cert
        self.certificate_path: str | None = configuration.cert_file
        self.key_path: str | None = configuration.key_file
        self.is_insecure: bool = not configuration.verify_ssl
        self.server_name: str | None = configuration.tls_server_name

    async def headers(self) -> dict[str, str]:
        """The Authorization header; a pod's token is read again each minute."""
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            return {"Authorization": token}
        if self._configuration.username:
            return {"Authorization": aiohttp.encode_basic_auth(self._configuration.username, self._configuration.password or "")}
        return {}

    def tls(self) -> ssl.SSLContext | bool:
        """What to trust, and our certificate."""
        if not self.server.startswith("https"):
            return False
        context = ssl.create_default_context(cafile=self.ca_path)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go: whatever is given as a root is one
        if self.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_path:
            context.load_cert_chain(self.certificate_path, self.key_path)
        return context


async def load(kubeconfig: str | None) -> Access:
    """From *kubeconfig*, else $KUBECONFIG, else the pod's account, else ~/.kube/config. Raises errors.Unconfigured."""
    configuration = client.Configuration()
    path = kubeconfig or os.environ.get("KUBECONFIG")
    try:
        if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            path = os.path.expanduser(path or _HOME_CONFIG)
            if not os.path.exists(path):
                raise errors.Unconfigured(f"no way to an API server: {path} does not exist; give --kubeconfig")
            await config.load_kube_config(path, client_configuration=configuration, persist_config=False)
    except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        raise errors.Unconfigured(f"kubeconfig {path or 'of the pod'} cannot be used: {error}") from error
    return Access(configuration)
