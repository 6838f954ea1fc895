#!/bin/sh
# Renews the locks; run by `make lock`, never by a build. Each line carries the hashes of every platform's wheel.
set -eu
cd "$(dirname "$0")"
for name in runtime chroma dev sdk-previous; do
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --excludes excluded.txt "$name.in" --output-file "$name.txt" "$@"
done
