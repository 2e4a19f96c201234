"""Judges docker-compose.yml: by Compose's own schema, and by what the program says of each service's environment."""

import pathlib
import subprocess
import sys
import tomllib

import yaml

FILE = "docker-compose.yml"
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
PARTS = {"migrate", "worker", "api"}

said = subprocess.run(
    [pathlib.Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE],
    capture_output=True, text=True)
faults = [said.stdout] if said.returncode else []
services = yaml.safe_load(pathlib.Path(FILE).read_text())["services"]
grace = tomllib.loads(pathlib.Path("config/postrider.toml").read_text())["shutdown"]["grace"]
for name, service in services.items():
    for other, how in service.get("depends_on", {}).items():
        if other not in services:
            faults.append(f"{name} waits for {other}, which isn't there")
        elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            faults.append(f"{name} waits for {other} to be healthy, which has no check")
    if "build" not in service:
        continue
    if service.get("profiles") != ["postrider"]:
        faults.append(f"{name} would be built by whoever wants the servers alone")
    if service.get("read_only") is not True or service.get("cap_drop") != ["ALL"]:
        faults.append(f"{name} may do more than it must")
    if int(service["stop_grace_period"].removesuffix("s")) <= int(grace.removesuffix("s")) + 5:
        faults.append(f"{name} is killed before its grace of {grace} is over")
    if name in PARTS and PROGRAM.exists():
        # It reads its configuration before it reaches for servers, and exits 2 if it can't be used.
        checked = subprocess.run([PROGRAM, "check"], env=service["environment"], capture_output=True, text=True, timeout=60)
        if checked.returncode not in (0, 1) or service["command"] != [name]:
            faults.append(f"{name}: the program refuses its environment: {checked.stderr}")
if not PARTS <= services.keys():
    faults.append(f"without {PARTS - services.keys()}")
for fault in faults:
    print(f"check-chart: {FILE}: {fault}", file=sys.stderr)
sys.exit(bool(faults))
