"""The two extension modules and the switches of their build; everything else is in pyproject.toml.

FASTNS_TRACE=1      line-traced build, for coverage of the .pyx files
FASTNS_COVERAGE=1   gcov build of the C files
FASTNS_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
"""

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup


def switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


trace = switch("FASTNS_TRACE")
sanitize = switch("FASTNS_SANITIZE")
coverage = switch("FASTNS_COVERAGE")

compile_args = ["-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
link_args = []
macros = []
if trace:
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
if sanitize:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    compile_args += flags
    link_args += flags
    macros += [("FASTNS_SANITIZE", "1")]
if coverage:
    compile_args += ["--coverage", "-O0", "-g"]
    link_args += ["--coverage"]
    macros += [("FASTNS_COVERAGE", "1")]

extensions = [
    Extension(
        "fastns._core",
        ["fastns/_core.pyx", *sorted(glob.glob("fastns/relay/*.c"))],
        depends=[*glob.glob("fastns/core/*.pxi"), *glob.glob("fastns/relay/*.h"), "fastns/_linux.pxd"],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=[*link_args, "-pthread", "-Wl,-z,now"],
    ),
    Extension(
        "fastns._codec",
        ["fastns/_codec.pyx"],
        depends=[*glob.glob("fastns/codec/*.[hp]*"), "fastns/relay/kernel.h", "fastns/_linux.pxd"],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    ),
]

setup(
    options={"build_ext": {"parallel": len(extensions)}},
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "autotestdict": False,
            "cdivision": True,
            "linetrace": trace,
        },
    )
)
