# Outlives the process that started it just long enough to end that one's children. Its standard input is a pipe
# from there: lines "watch PID" and "release PID"; the pipe's end means that the parent is gone or done.
# $1 is a folder to remove at the end, or empty.
trap '' INT TERM HUP
folder=$1
watched=

while read -r verb pid; do
    case $verb in
    watch) watched="$watched $pid" ;;
    release)
        kept=
        for other in $watched; do
            [ "$other" = "$pid" ] || kept="$kept $other"
        done
        watched=$kept
        ;;
    esac
done

for pid in $watched; do
    # Its group, itself should it lead none, and its direct children: Postgres's stand in groups of their own, and a
    # frozen one sleeps through its parent's death.
    children=$(grep -ls "^PPid:[[:space:]]*$pid\$" /proc/[0-9]*/status | cut -d / -f 3)
    kill -s KILL -- "-$pid" 2>/dev/null
    for process in $pid $children; do kill -s KILL "$process" 2>/dev/null; done
done

if [ -n "$folder" ]; then
    # A Postgres that was killed leaves its System V segment behind: line 7 of postmaster.pid is "key id".
    segment=$(sed -n '7s/.* //p' "$folder/data/postmaster.pid" 2>/dev/null)
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
    # What was killed a moment ago may still be writing.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf -- "$folder" 2>/dev/null
        [ -e "$folder" ] || break
        sleep 0.2
    done
fi
