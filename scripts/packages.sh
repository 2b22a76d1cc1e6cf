# Functions for the other scripts that install packages. This file is sourced, not run.

# Runs a command as root. sudo may ask for a password only if standard input is a terminal.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo "$@"
    else
        return 1
    fi
}

# Prints the name of the package manager, or nothing if there is none.
manager() {
    for manager in apt-get dnf apk pacman zypper brew; do
        if command -v "$manager" >/dev/null; then
            echo "$manager"
            return
        fi
    done
}

# Installs the given packages with this system's package manager.
install() {
    case "$(manager)" in
        apt-get)
            as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
                as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
            ;;
        dnf) as_root dnf install -q -y "$@" ;;
        apk) as_root apk add -q "$@" ;;
        pacman) as_root pacman -S --needed --noconfirm "$@" ;;
        zypper) as_root zypper -q -n install "$@" ;;
        brew) brew install --quiet "$@" ;;
        *) return 1 ;;
    esac
}
