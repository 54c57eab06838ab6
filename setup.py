"""The two extension modules and the switches of their build; everything else is in pyproject.toml.

FASTNS_TRACE=1      line-traced build, for coverage of the .pyx files
FASTNS_COVERAGE=1   gcov build of the C files
FASTNS_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
"""

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


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


class BuildExt(build_ext):
    """The process the relay's files run in has no thread-local storage, which is where a stack protector looks."""

    def build_extensions(self):
        compile_one = self.compiler._compile

        def compile_with(obj, src, ext, cc_args, extra_postargs, pp_opts):
            if os.path.basename(os.path.dirname(src)) == "relay":
                extra_postargs = [*extra_postargs, "-fno-stack-protector"]
            compile_one(obj, src, ext, cc_args, extra_postargs, pp_opts)

        self.compiler._compile = compile_with
        super().build_extensions()


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
    cmdclass={"build_ext": BuildExt},
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
