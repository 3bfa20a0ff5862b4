"""Find reconstructions of NeuroMorpho.Org."""

from urllib.parse import quote

from neurofleet.errors import InputError
from neurofleet.http_download import DownloadError, Web
from neurofleet.neurosim.exchange.archive_folder import Found, RemoteFile


def find_neuron(web: Web, name: str) -> Found:
    """Ask the archive for a reconstruction in its standard form (CNG).

    Raises
    ------
    InputError
        There is no neuron of this name.
    DownloadError
        The server does not answer, or answers something else.
    """
    try:
        neuron = web.json(f"/api/neuron/name/{quote(name, safe='')}")
    except DownloadError as error:
        if "404" not in str(error):
            raise
        neuron = {}
    if not isinstance(neuron, dict) or not neuron.get("neuron_name") or not neuron.get("archive"):
        raise InputError(
            f"neuromorpho:{name}: expected the name of a neuron of NeuroMorpho.Org, found none. Copy the name, with "
            "lower and upper case, from the neuron's page."
        )
    found, archive = str(neuron["neuron_name"]), str(neuron["archive"])
    route = f"/dableFiles/{quote(archive.casefold(), safe='')}/CNG%20version/{quote(found, safe='')}.CNG.swc"
    file = RemoteFile(f"{found}.CNG.swc".replace("/", "_"), str(neuron.get("neuron_id", found)), "morphology", route)
    parts = [neuron.get(key) for key in ("species", "brain_region", "cell_type", "archive")]
    words = [", ".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts if part]
    return Found("; ".join(words), {"neuron": found}, (file,), neuron)
