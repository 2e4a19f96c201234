"""Judges the chart by what Helm makes of it.

Each file of values in the chart's ci/ is linted and rendered. What comes out is held against the schemas of Kubernetes (the oldest
that the chart takes, and a new one), of KEDA and of the Prometheus Operator, and against what the chart promises: whom pods may reach,
what they may do, how long they may take to stop. The program itself says whether it takes each container's environment. What stands in
the chart and elsewhere too (settings, networks, alerts, version) must be the same; values that can't work must be refused.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring

HELM, PROGRAM = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
CHART = pathlib.Path("deploy/helm/postrider")
LEAST = CHART / "ci/least.yaml"
KUBERNETES = ["1.30", "1.37"]
OPERATORS = {
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
    "ServiceMonitor": monitoring.ServiceMonitor,
    "PrometheusRule": monitoring.PrometheusRule,
}
SECRETS = {"amqp.url", "postgres.url", "secrets.keys", "auth.token_keys"}
FILES = {"amqp.ca_file", "postgres.ca_file", "egress.ca_file", "auth.jwks_file"}
LISTEN = {"api.listen", "admin.listen"}
KEY = "ZGV2ZWxvcG1lbnQtb25seS1kZXZlbG9wbWVudC1vbmw="

# Values that must be refused, and what the refusal must name.
REFUSED = {
    "image: {repository: ''}": "/image/repository",
    "scaling: {minReplicaCount: 0}": "/scaling/minReplicaCount",
    "scaling: {minReplicaCount: 9}": "scaling.minReplicaCount is above",
    "scaling: {prometheus: ''}": "/scaling/prometheus",
    "config: {amqp: {url: 'amqp://user:password@host'}}": "url",
    "config: {delivery: {timeuot: 5s}}": "timeuot",
    "config: {retry: {attempts_max: many}}": "/config/retry/attempts_max",
    "config: {shutdown: {grace: 1500ms}}": "/config/shutdown/grace",
    "secrets: {postgresUrl: {name: ''}}": "/secrets/postgresUrl/name",
    "secrets: {tokenKeys: {name: ''}}": "set secrets.tokenKeys.name or files.jwks",
    "networkPolicy: {postgres: {to: []}}": "/networkPolicy/postgres/to",
    "networkPolicy: {api: {from: []}}": "/networkPolicy/api/from",
    "replicas: 3": "replicas",
}

faults = []


def hold(true, fault):
    if not true:
        faults.append(fault)


def helm(*arguments):
    return subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True)


def rendered(*values):
    files = [word for path in values for word in ("--values", path)]
    said = helm("template", "postrider", CHART, "--namespace", "hooks", "--kube-version", KUBERNETES[0], *files)
    if said.returncode:
        sys.exit(f"check-chart: {values}: {said.stderr}")
    return [document for document in yaml.safe_load_all(said.stdout) if document]


def unread(given, read, path=""):
    """What is in `given` and was lost on the way through a model: keys that its schema doesn't know."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key not in read:
                yield f"{path}.{key}"
            else:
                yield from unread(value, read[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(read, list):
        for number, pair in enumerate(zip(given, read)):
            yield from unread(*pair, f"{path}[{number}]")


def check_schema(document, name):
    model = OPERATORS.get(document["kind"])
    try:
        if model is None:
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
        else:
            read = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
            for key in unread(document, read):
                faults.append(f"{name}: {key} is no field of {document['kind']}")
    except Exception as error:  # the two libraries have a dozen kinds
        faults.append(f"{name}: {error}")


def pods(documents):
    """Part and pod of all that makes pods."""
    for document in documents:
        template = document.get("spec", {}).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def check_pod(name, part, pod, defaults):
    hold(pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0, f"{name}: may be root")
    hold(pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, f"{name}: any system call")
    hold(pod["automountServiceAccountToken"] is False, f"{name}: has a token of the cluster's")
    (container,) = pod["containers"]
    allowed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    hold(container["securityContext"] == allowed, f"{name}: the container may do more than it must")
    hold(container["args"] == [part], f"{name}: runs {container['args']}")
    if part != "migrate":
        probes = {kind: container[kind]["httpGet"] for kind in ("livenessProbe", "readinessProbe")}
        wanted = {"livenessProbe": {"path": "/livez", "port": "admin"}, "readinessProbe": {"path": "/readyz", "port": "admin"}}
        hold(probes == wanted, f"{name}: probes {probes}")
        grace = variables(container).get("POSTRIDER__SHUTDOWN__GRACE", defaults["shutdown"]["grace"])
        seconds = int(grace[:-1]) * {"s": 1, "m": 60}[grace[-1]]
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        limit = pod["terminationGracePeriodSeconds"]
        hold(limit > before + seconds + 5, f"{name}: is killed {limit} s after the signal, with a grace of {grace}")


def variables(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def check_environment(name, part, pod):
    """The program reads its configuration before it reaches for servers, and exits 2 if it can't be used."""
    container = pod["containers"][0]
    mounted = {source["items"][0]["path"]: source["items"][0] for volume in pod["volumes"]
               for projected in volume["projected"]["sources"] for source in projected.values()}
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": "/nowhere"}
        for variable, value in variables(container).items():
            path = pathlib.Path(value)
            if value.startswith("/run/postrider/"):
                hold(path.name in mounted, f"{name}: {variable} is a file that isn't mounted")
                value = pathlib.Path(folder, path.name)
                value.write_text(CONTENTS[path.name])
            environment[variable] = str(value)
        hold("POSTRIDER__POSTGRES__URL_FILE" in environment, f"{name}: no way to Postgres")
        hold(("POSTRIDER__SECRETS__KEYS_FILE" in environment) == (part != "migrate"), f"{name}: keys")
        said = subprocess.run([PROGRAM, "check"], env=environment, capture_output=True, text=True, timeout=60)
        hold(said.returncode in (0, 1), f"{name}: the program refuses its environment: {said.stderr}")


CONTENTS = {
    "amqp-url": "amqp://guest:guest@127.0.0.1:1/%2f\n",
    "postgres-url": "postgres://postrider@127.0.0.1:1/postrider\n",
    "secrets-keys": f"{KEY}\n",
    "token-keys": f"{KEY}\n",
    "jwks.json": '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}',
}


def check_network(name, documents):
    """The API reaches servers alone; workers what is public beside them, less what the program itself takes for not public."""
    source = pathlib.Path("crates/webhook/src/address_policy.rs").read_text().split("mod tests")[0]
    v4 = [f"{a}.{b}.{c}.{d}/{n}" for a, b, c, d, n in re.findall(r"V?4?Addr::new\((\d+), (\d+), (\d+), (\d+)\), (\d+)\)", source)]
    v6 = re.findall(r"Ipv6Addr::new\(([^)]*)\), (\d+)\)", source.split("const REFUSED_V6")[1].split("];")[0])
    v6 = {(tuple(int(part, 16) for part in parts.split(", ")), int(n)) for parts, n in v6}
    hold(len(v4) > 10 and len(v6) > 2, "address_policy.rs is read wrongly")
    for document in documents:
        if document["kind"] != "NetworkPolicy":
            continue
        part = document["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        egress = document["spec"]["egress"]
        hold(document["spec"]["policyTypes"] == ["Ingress", "Egress"], f"{name}: {part}: a direction is open")
        hold(all(rule["to"] for rule in egress), f"{name}: {part} may reach everybody")
        anywhere = [rule for rule in egress if "ports" not in rule]
        if part != "worker":
            hold(not anywhere, f"{name}: {part} may reach any port of somebody")
            continue
        blocks = [peer["ipBlock"] for rule in anywhere for peer in rule["to"]]
        hold(blocks[0] == {"cidr": "0.0.0.0/0", "except": v4}, f"{name}: other IPv4 networks than address_policy.rs")
        hold(blocks[1]["cidr"] == "2000::/3" and {numbers(net) for net in blocks[1]["except"]} == v6,
             f"{name}: other IPv6 networks than address_policy.rs")


def numbers(network):
    address, prefix = network.split("/")
    head = [int(part, 16) for part in address.removesuffix("::").split(":")]
    return tuple(head + [0] * (8 - len(head))), int(prefix)


def check_sameness(documents, defaults):
    rules = yaml.safe_load(pathlib.Path("deploy/prometheus/postrider.rules.yml").read_text())
    hold([d["spec"] for d in documents if d["kind"] == "PrometheusRule"] == [rules], "the alerts aren't deploy/prometheus's")

    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    there = {f"{section}.{key}" for section, rest in schema.items() for key in rest["properties"]}
    known = {f"{section}.{key}" for section, rest in defaults.items() for key in rest}
    hold(there == known - SECRETS - FILES - LISTEN, f"values.schema.json has other settings: {there ^ (known - SECRETS - FILES - LISTEN)}")

    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    workspace = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"]["package"]
    hold(about["appVersion"] == workspace["version"], "Chart.yaml has another version than Cargo.toml")

    readme = (CHART / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    hold(yaml.safe_load(readme) == yaml.safe_load(LEAST.read_text()), "README.md says other values than ci/least.yaml")


def check_scaling(name, documents):
    for scaled in (d["spec"] for d in documents if d["kind"] == "ScaledObject"):
        types = {trigger["type"] for trigger in scaled["triggers"]}
        hold(types == {"rabbitmq", "prometheus"}, f"{name}: scales by {types}")
        workers = next(d for d in documents if d["kind"] == "Deployment" and d["metadata"]["name"] == scaled["scaleTargetRef"]["name"])
        hold("replicas" not in workers["spec"], f"{name}: an upgrade would undo KEDA's work")
        for trigger in scaled["triggers"]:
            if trigger["type"] == "prometheus":
                hold("postrider_ledger_due" in trigger["metadata"]["query"], f"{name}: asks for something else")


def check_refusals():
    for values, named in REFUSED.items():
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(values)
            file.flush()
            said = helm("template", "postrider", CHART, "--kube-version", KUBERNETES[0], "--values", LEAST, "--values", file.name)
        hold(said.returncode and named in said.stderr, f"{values} isn't refused with a word of {named}: {said.stderr}")


def main():
    defaults = tomllib.loads(pathlib.Path("config/postrider.toml").read_text())
    authority = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
    can_run = PROGRAM.exists() and authority.exists()
    if not can_run:
        print("check-chart: the environments weren't tried: no target/debug/postrider, or no authorities of the system's", file=sys.stderr)
    else:
        CONTENTS.update(dict.fromkeys(["amqp-ca.pem", "postgres-ca.pem", "egress-ca.pem"], authority.read_text()))
    values = sorted((CHART / "ci").glob("*.yaml"))
    count = 0
    for path in values:
        said = helm("lint", CHART, "--strict", "--quiet", "--values", path)
        hold(said.returncode == 0, f"{path.name}: {said.stdout}{said.stderr}")
        documents = rendered(path)
        count += len(documents)
        for document in documents:
            check_schema(document, f"{path.name}, {document['kind']} {document['metadata']['name']}")
        for part, pod in pods(documents):
            check_pod(f"{path.name}, {part}", part, pod, defaults)
            if can_run:
                check_environment(f"{path.name}, {part}", part, pod)
        check_network(path.name, documents)
        check_scaling(path.name, documents)
    check_sameness(rendered(LEAST), defaults)
    check_refusals()
    for fault in faults:
        print(f"check-chart: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"check-chart: {count} documents of {len(values)} files of values, {len(REFUSED)} refusals: as they must be", file=sys.stderr)


main()
