#!/usr/bin/env bash
# Compile mmcv's operators in minutes instead of half an hour: `make setup` passes this as CXX.
#
# Every file of mmcv includes torch/types.h, which takes 10 to 25 seconds to parse. The first call
# precompiles that header with the flags of the build; the others wait for it and use it. If the
# header does not compile, every file is compiled without it. Link commands pass through unchanged.
#
# MMCV_CXX        the compiler (default: c++)
# MMCV_CXXFLAGS   flags to add to every compilation
# MMCV_HEADER     an existing folder for the precompiled header, empty at the start of a build
set -u

read -ra cxx <<< "${MMCV_CXX:-c++}" # possibly two words, as in "ccache g++"
[[ " $* " == *" -c "* ]] || exec "${cxx[@]}" "$@"

read -ra added <<< "${MMCV_CXXFLAGS:-}"
compile=("${cxx[@]}" "$@" "${added[@]}")
[ -d "${MMCV_HEADER:-}" ] || exec "${compile[@]}"

flags=()
while (($#)); do
    case $1 in
        -o | -MF) shift ;; # and the file name that follows
        -MMD | -c | *.cpp) ;;
        *) flags+=("$1") ;;
    esac
    shift
done

header=$MMCV_HEADER/torch_types.h
(
    flock 9 || exit
    [ -e "$header" ] && exit
    echo '#include <torch/types.h>' > "$header"
    "${cxx[@]}" "${flags[@]}" "${added[@]}" -x c++-header "$header" -o "$header.gch" 2>/dev/null
) 9> "$MMCV_HEADER/lock"
[ -e "$header.gch" ] && compile+=(-include "$header")
exec "${compile[@]}"
