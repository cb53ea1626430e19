# Makes one PostgreSQL cluster and keeps it for as long as its input lasts.
#   $1  the folder of PostgreSQL's programs
#   $2  the server of which it is to be a standby, as libpq names one; empty: none
# Prints the cluster's folder. Then each line of input is a mode of pg_ctl and its options, and its answer is pg_ctl's
# exit status. When the input ends, the server is killed and the folder removed.
trap '' PIPE
folder=$(mktemp -d /tmp/reseal-postgres.XXXXXX) || exit
if ! if [ -n "$2" ]; then
    "$1/pg_basebackup" -D "$folder/data" --dbname "$2" --checkpoint fast --write-recovery-conf --no-sync
else
    "$1/initdb" -D "$folder/data" --username postgres --auth trust --encoding UTF8 --no-sync
fi >"$folder/log" 2>&1; then
    cat "$folder/log" >&2
    rm -rf "$folder"
    exit 1
fi
echo "$folder"
while read -r mode; do
    "$1/pg_ctl" -D "$folder/data" -l "$folder/log" -w $mode >/dev/null 2>&1
    echo $?
done
"$1/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1
rm -rf "$folder"
