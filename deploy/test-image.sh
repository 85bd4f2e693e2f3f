#!/usr/bin/env bash
# Builds the serving image and tries it as a cluster runs it: read-only, without capabilities, unprivileged.
#
#   deploy/test-image.sh            # builds the target serve, then tries it
#   deploy/test-image.sh IMAGE      # tries an image that is there
#
# ENGINE: podman or docker, whichever is there. BUILD_OPTIONS: further words for the build, --build-arg BASE=… for one.
# Exit code 77: no engine is there, nothing was tried.
set -euo pipefail
cd "$(dirname "$0")/.."

engine=${ENGINE:-$(command -v podman || command -v docker || true)}
if [[ -z $engine ]] || ! "$engine" info >/dev/null 2>&1; then
  echo "not tried: neither podman nor docker runs here (apt-get install podman runc, or set ENGINE)" >&2
  exit 77
fi
port=50061  # not the usual one: the health check has to follow the setting
name=heatward-test-$$
image=${1:-localhost/heatward:test}

fail() {
  echo "FAILED: $*" >&2
  "$engine" logs "$name" 2>&1 | tail -n 20 >&2 || true
  exit 1
}
inside() { "$engine" exec "$name" "$@"; }
refused() { ! inside "$@" >/dev/null 2>&1; }
passed() { echo "ok: $*"; }

if [[ $# -eq 0 ]]; then
  format=()
  [[ $(basename "$engine") == podman ]] && format=(--format docker)  # OCI's own format has no HEALTHCHECK
  # shellcheck disable=SC2086  # several words
  "$engine" build "${format[@]}" --target serve -t "$image" ${BUILD_OPTIONS:-} .
fi
passed "image of $("$engine" image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B"

trap '"$engine" rm -f "$name" >/dev/null 2>&1' EXIT
"$engine" run -d --name "$name" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
  -e HEATWARD_SERVE_PORT=$port -v "$PWD/tests/deploy/images:/images:ro" "$image" >/dev/null
check=$("$engine" image inspect --format '{{range .Config.Healthcheck.Test}}{{.}} {{end}}' "$image")
[[ $check == "CMD heatward health " ]] || fail "the image's HEALTHCHECK is '$check'"
for _ in $(seq 120); do
  inside heatward health >/dev/null 2>&1 && break
  [[ $("$engine" inspect --format '{{.State.Status}}' "$name") == running ]] || fail "the server ended"
  sleep 1
done
inside heatward health >/dev/null || fail "not healthy after two minutes"
passed "healthy, by its own health check, on port $port"

attacked() {  # how many images of this folder are flagged
  inside heatward detect "/images/$1" --address "127.0.0.1:$port" --json | grep -c '"attacked": *true' || true
}
clean_flagged=$(attacked clean)
attacked_flagged=$(attacked attacked)
[[ $clean_flagged -le 1 ]] || fail "$clean_flagged of 8 clean images flagged"
[[ $attacked_flagged -ge 7 ]] || fail "only $attacked_flagged of 8 attacked images flagged"
passed "$attacked_flagged of 8 attacked images flagged, $clean_flagged of 8 clean ones"

[[ $(inside id -u) == 10001 ]] || fail "runs as user $(inside id -u)"
grep -q '^CapEff:[[:space:]]*0*$' <(inside cat /proc/1/status) || fail "the server has capabilities"
for place in / /app /opt/heatward /usr/bin; do
  refused touch "$place/written" || fail "$place can be written to"
done
passed "user 10001, no capabilities, nothing can be written"

for program in gcc cc make; do
  refused sh -c "command -v $program" || fail "$program is in the image"
done
for module in torchattacks matplotlib training; do
  refused python3 -c "import $module" || fail "$module is in the image"
done
inside python3 -c '
import json
bill = json.load(open("/opt/heatward/sbom.cdx.json"))
names = {part["name"].lower() for part in bill["components"]}
assert bill["bomFormat"] == "CycloneDX" and {"torch", "grpcio", "timm"} <= names, names' || fail "its bill of materials"
passed "no compiler, no attacks, a CycloneDX bill of materials"

"$engine" stop -t 45 "$name" >/dev/null
code=$("$engine" inspect --format '{{.State.ExitCode}}' "$name")
[[ $code == 0 ]] || fail "exit code $code after SIGTERM"
grep -q '"all_answered": true' <("$engine" logs "$name" 2>&1) || fail "something was left without an answer"
passed "exit code 0 after SIGTERM, all answered"
