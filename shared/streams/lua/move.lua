-- MOVE: retried events that are due go back to raw. Deleting the entry is the fence.
-- ARGV: now_ms, ids… Returns the number of events moved.
local now_ms = number()
check_streams(RAW, RETRY)
check_hashes(OPEN_RAW, LEDGER)
local moved = 0
for i = 2, #ARGV do
  local found = call('XRANGE', RETRY, ARGV[i], ARGV[i])
  local fields = found[1] and named(found[1][2])
  if fields and tonumber(fields['due']) <= now_ms and call('XDEL', RETRY, ARGV[i]) == 1 then
    ensure_epoch()
    count('retry.moved', 1)
    local moved_fields = { 'v', fields['v'], 'n', '1', 'c', fields['c'], 'd', fields['d'], 't', fields['t'],
      'a', fields['a'], 'h', fields['h'] }
    if fields['x'] then table.insert(moved_fields, 'x'); table.insert(moved_fields, fields['x']) end
    add('raw', 1, moved_fields)
    moved = moved + 1
  end
end
return moved
