# Follows an event stream by curl: prints the type of each event, and how the stream ended.
{ curl --silent --no-buffer "$1"; echo "exit: $?"; } | while IFS= read -r line; do
    case "$line" in
        "event: "*) echo "event ${line#event: }" ;;
        "exit: 0") echo end ;;
        "exit: "*) echo "error ${line#exit: }" ;;
    esac
done
