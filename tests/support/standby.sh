# Makes a hot standby of a cluster and keeps it for as long as its input lasts.
#   $1  the folder of PostgreSQL's programs
#   $2  the folder of the primary's socket
#   $3  the primary's port
# Prints the folder of the standby's socket, whose port is the primary's. When the input ends, the server is killed and
# the folder removed.
trap '' PIPE
folder=$(mktemp -d /tmp/reseal-standby.XXXXXX) || exit
if ! {
    "$1/pg_basebackup" -h "$2" -p "$3" -U postgres -D "$folder/data" -R -X stream -c fast &&
        "$1/pg_ctl" -D "$folder/data" -l "$folder/server.log" -w \
            -o "-p$3 -c listen_addresses='' -c unix_socket_directories='$folder'" start
} >"$folder/log" 2>&1; then
    cat "$folder/log" "$folder/server.log" >&2
    rm -rf "$folder"
    exit 1
fi
echo "$folder"
cat >/dev/null
"$1/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1
rm -rf "$folder"
