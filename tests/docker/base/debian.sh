#!/bin/sh
# debian:bookworm-slim from nothing: ROOT is an empty folder, TAG what to call it, LABEL=DIGEST what it was made from
set -eu
SUITE=bookworm
MIRROR=http://deb.debian.org/debian
debootstrap --variant=minbase $SUITE "$ROOT" $MIRROR > "$ROOT.log" 2>&1 || { tail -n 3 "$ROOT.log" >&2; exit 1; }
cat > "$ROOT/etc/apt/sources.list" <<END
deb $MIRROR $SUITE main
deb $MIRROR $SUITE-updates main
deb $MIRROR-security $SUITE-security main
END
cat > "$ROOT/etc/dpkg/dpkg.cfg.d/slim" <<END
force-unsafe-io
path-exclude /usr/share/doc/*
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-include /usr/share/doc/*/copyright
END
cat > "$ROOT/etc/apt/apt.conf.d/slim" <<END
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb || true"; };
END
printf '#!/bin/sh\nexit 101\n' > "$ROOT/usr/sbin/policy-rc.d"
chmod 755 "$ROOT/usr/sbin/policy-rc.d"
rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/* "$ROOT"/var/log/* "$ROOT"/usr/share/man/* "$ROOT"/usr/share/info/*
rm -rf "$ROOT"/usr/share/locale/* "$ROOT/etc/resolv.conf" "$ROOT/etc/hostname"
find "$ROOT/usr/share/doc" -type f ! -name copyright -delete
tar --numeric-owner -C "$ROOT" -c . | docker import -c 'CMD ["bash"]' -c "LABEL $LABEL=$DIGEST" - "$TAG" > /dev/null
