#!/usr/bin/env python3
"""Fills in the CUDA libraries that a torch wheel links to, so that it loads on a machine that has none of them.

    python3 torch_stubs.py SITE_PACKAGES

libtorch's libraries need cuBLAS, cuDNN, NCCL, ... : 2.5 GB that nothing calls without a GPU. Python loads extension
modules with RTLD_NOW, so each symbol they refer to must exist; it need not do anything. This compiles one library of
empty functions for each one that is missing, into torch/lib, where the wheel's RUNPATH looks last: a real one wins.
The CUDA runtime must be real (nvidia-cuda-runtime), as libtorch's static constructors call it.

Needs cc and binutils.
"""

import collections
import pathlib
import re
import subprocess
import sys

# libtorch_python pulls in everything but the linear algebra library, which torch opens on first use.
ENTRY_POINTS = ("libtorch_python.so", "libtorch_cuda_linalg.so")


def output_of(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def missing_libraries(lib_dir):
    """Sonames that the loader cannot find for the entry points."""
    listing = "".join(output_of("ldd", str(lib_dir / name)) for name in ENTRY_POINTS)
    return set(re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE))


def version_owners(library):
    """Symbol version -> soname of the library that has to define it, as `library` records it."""
    owners, soname = {}, None
    for line in output_of("readelf", "--version-info", "--wide", str(library)).splitlines():
        if found := re.search(r"Version: \d+\s+File: (\S+)", line):
            soname = found[1]
        elif soname and (found := re.search(r"Name: (\S+)\s+Flags: .*Version: \d+", line)):
            owners[found[1]] = soname
    return owners


def needed(library):
    return re.findall(r"\(NEEDED\).*\[(.+)\]", output_of("readelf", "--dynamic", "--wide", str(library)))


def symbols(library, kind):
    """(name, version or "") of a library's dynamic symbols; `kind` is nm's --defined-only or --undefined-only."""
    for line in output_of("nm", "--dynamic", "--with-symbol-versions", kind, str(library)).splitlines():
        kind_letter, name = line.split()[-2:]
        if kind_letter not in "wv":  # weak references may stay undefined
            name, _, version = name.replace("@@", "@").partition("@")
            yield name, version


def plan(lib_dir):
    """Soname -> {version or "": names of the functions that it must define}."""
    missing = missing_libraries(lib_dir)
    stubs = {soname: collections.defaultdict(set) for soname in missing}
    libraries = [path for path in lib_dir.glob("lib*.so") if missing & set(needed(path))]
    ours = {name for path in lib_dir.glob("lib*.so*") for name, _ in symbols(path, "--defined-only")}
    for library in libraries:
        owners = version_owners(library)
        unversioned = (missing & set(needed(library))) - set(owners.values())
        for name, version in symbols(library, "--undefined-only"):
            if version:
                if owners[version] in missing:
                    stubs[owners[version]][version].add(name)
            elif name not in ours and not name.startswith(("Py", "_Py")):  # the interpreter has those
                # Which of the unversioned libraries it belongs to is not recorded, and to the loader it is all one.
                for soname in unversioned:
                    stubs[soname][""].add(name)
    return stubs


def compile_stub(lib_dir, soname, functions):
    source = "".join(f"int {name}(void) {{ return 0; }}\n" for names in functions.values() for name in sorted(names))
    command = ["cc", "-shared", "-x", "c", "-w", "-O1", "-nostdlib", f"-Wl,-soname,{soname}"]
    script = lib_dir / f"{soname}.version"
    versions = {version: names for version, names in functions.items() if version}
    if versions:
        script.write_text("".join(
            "%s { global: %s };\n" % (version, " ".join(f"{name};" for name in sorted(names)))
            for version, names in versions.items()
        ))
        command.append(f"-Wl,--version-script,{script}")
    subprocess.run([*command, "-o", str(lib_dir / soname), "-"], input=source, text=True, check=True)
    script.unlink(missing_ok=True)


def main(site_packages):
    lib_dir = pathlib.Path(site_packages) / "torch" / "lib"
    stubs = plan(lib_dir)
    for soname in sorted(stubs):
        compile_stub(lib_dir, soname, stubs[soname])
    left = missing_libraries(lib_dir)
    if left:
        raise SystemExit(f"torch_stubs: {lib_dir}: still missing {', '.join(sorted(left))}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
