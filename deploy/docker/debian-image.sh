#!/usr/bin/env bash
# Makes an image of Debian 12 by debootstrap, where no registry of images can be reached. Run as root:
#
#   deploy/docker/debian-image.sh heatward-base python3 python3-venv      # for --build-arg BASE=localhost/heatward-base
#   deploy/docker/debian-image.sh prometheus prometheus                   # for compose's PROMETHEUS_IMAGE
set -euo pipefail

name=${1:?an image needs a name: $0 NAME PACKAGE…}
packages=$(IFS=,; echo "ca-certificates${2:+,}${*:2}")
# shellcheck disable=SC2016  # apt fills it in
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)  # the one that apt uses here
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | "${ENGINE:-podman}" import - "$name"
