# A vendor of one file per machine under $YARD/machines. $YARD/faults/NAME makes the next create go wrong in that way.
set -eu
machine=$YARD/machines/$TAG
tell() {
  printf '{"version":4,"serial":1,"lineage":"a","outputs":{"phase":{"value":"%s","type":"string"},"id":{"value":"m-%s","type":"string"}}}' \
    "$1" "$TAG" >"$machine.new"
  mv "$machine.new" "$machine"
}
strikes() { rmdir "$YARD/faults/$1" 2>/dev/null; }
fail() { echo "$1" >&2; exit 1; }

case $1 in
  create)
    echo "$TAG $OWNER $ENDS_AT" >>"$YARD/asked"
    if strikes no-capacity; then fail "InsufficientInstanceCapacity: none of this type"; fi
    if strikes half-created; then tell broken; fail "the machine stumbled"; fi
    if strikes slow; then echo "$$" >"$YARD/slow"; while [ ! -e "$YARD/go" ]; do sleep 0.05; done; fi
    tell running
    if strikes lost-reply; then fail "connection reset by peer"; fi
    ;;
  destroy)
    rm -f "$machine"
    ;;
esac
