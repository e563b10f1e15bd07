# Source this in bash: it puts .venv, ROS and the built packages into the shell.
#   . tools/env.sh
# A sourced ROS distribution is kept where .venv was made for one (make setup).
_sn_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_sn_venv="$_sn_root/.venv"

_sn_activate() {
    if [ ! -x "$_sn_venv/bin/python" ]; then
        echo "no environment in $_sn_venv: run 'make setup' first" >&2
        return 1
    fi
    if grep -qi 'include-system-site-packages *= *true' "$_sn_venv/pyvenv.cfg"; then
        if [ -z "$AMENT_PREFIX_PATH" ]; then
            echo "$_sn_venv was made for a ROS distribution: source its setup.bash first" >&2
            return 1
        fi
    else
        # The wheels make the environment itself the ROS prefix; anything from outside would mix
        # in another Python's packages. Each Python sets its library path again without the guard.
        unset PYTHONPATH PYTHONHOME COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
        export AMENT_PREFIX_PATH="$_sn_venv" CMAKE_PREFIX_PATH="$_sn_venv"
    fi
    export VIRTUAL_ENV="$_sn_venv"
    case "$PATH:" in
        "$_sn_venv/bin:"*) ;;
        *) export PATH="$_sn_venv/bin:$PATH" ;;
    esac
    if [ -f "$_sn_root/install/local_setup.bash" ]; then
        . "$_sn_root/install/local_setup.bash"
        export LD_LIBRARY_PATH="${LD_LIBRARY_PATH%:}"  # an empty entry would mean the current folder
    fi
    return 0
}

# colcon's scripts read unset variables.
case $- in *u*) _sn_nounset=1; set +u ;; *) _sn_nounset= ;; esac
_sn_activate && _sn_status=0 || _sn_status=1
[ -n "$_sn_nounset" ] && set -u
unset -f _sn_activate
unset _sn_root _sn_venv _sn_nounset
return $_sn_status
