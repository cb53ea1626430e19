# Keep the old URL in a file before anything else: what holds it is told apart by it.
(umask 077 && cat >old-url) # paste it, a line break, Ctrl-D

# console.upstash.com → the database → Reset password; of a Redis that Fly made: flyctl redis reset NAME.
# From here on every tenant is without Redis: be quick.
(umask 077 && cat >new-url)
printf 'TENANT_REDIS_URL=%s\n' "$(cat new-url)" | flyctl secrets import --app molecule-cp

# The rows are encrypted, and only reseal can rewrite them. The keys are those that they are under.
reseal run --rewrite-url-password-from file:new-url --rewrite-old-url file:old-url \
    --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:ARN
# Each tenant's machine. The URL is on the command line of whoever types this, for others on that machine to see.
flyctl machine update MACHINE --app APP --env "REDIS_URL=$(cat new-url)" --yes
rm old-url new-url
