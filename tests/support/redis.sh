# Runs one Redis for as long as its input lasts.
#   $1  the program
# Prints the server's folder. Each line of input is its settings, one after the other as on its command line; the answer is 0
# when it listens. When the input ends, the server is killed and the folder removed.
trap '' PIPE
folder=$(mktemp -d /tmp/reseal-redis.XXXXXX) || exit
echo "$folder"
server=
while read -r settings; do
    "$1" --dir "$folder" --save '' --bind 127.0.0.1 --unixsocket "$folder/socket" $settings >"$folder/log" 2>&1 &
    server=$!
    while kill -0 $server 2>/dev/null && [ ! -S "$folder/socket" ]; do sleep 0.02; done
    kill -0 $server 2>/dev/null
    echo $?
done
[ -n "$server" ] && kill -KILL $server 2>/dev/null
wait
rm -rf "$folder"
