# Runs one PgBouncer before a PostgreSQL server for as long as its input lasts.
#   $1  the program   $2  the server's socket folder   $3  the server's port
# Prints the folder of PgBouncer's own socket. When the input ends, PgBouncer is killed and the folder removed.
trap '' PIPE
folder=$(mktemp -d /tmp/reseal-pgbouncer.XXXXXX) || exit
echo '"postgres" ""' >"$folder/users"
cat >"$folder/pgbouncer.ini" <<END
[databases]
* = host=$2 port=$3
[pgbouncer]
unix_socket_dir = $folder
listen_port = 6432
auth_type = trust
auth_file = $folder/users
pool_mode = transaction
default_pool_size = 3
END
# From 1.21 on it can follow a client's prepared statements from server to server. Most that are deployed don't.
version=$("$1" --version | head -n 1)
minor=${version#*1.}
[ "${minor%%.*}" -ge 21 ] && echo 'max_prepared_statements = 0' >>"$folder/pgbouncer.ini"
"$1" "$folder/pgbouncer.ini" >"$folder/log" 2>&1 &
echo "$folder"
read -r _
kill -KILL $!
wait
rm -rf "$folder"
