-- TAKE: one suspect for a worker with empty hands. Its own leftovers first (a reply that got lost: nobody
-- crashed, so the count stays), then the oldest reclaimed entry (its holder is gone: count + 1).
-- ARGV: stage, consumer. Returns {} | {id, deliveries, reclaimed (0|1), fields}; no fields: the body is gone.
local stage, me = word(), word()
local stream, group = STREAM[stage], GROUP[stage]
for _, holder in ipairs({ me, RECLAIMED }) do
  while true do
    local pending = call('XPENDING', stream, group, '-', '+', 1, holder)
    if #pending == 0 then break end
    local id, deliveries = pending[1][1], pending[1][4]
    local fields = body(stage, id)
    local ours = call('HEXISTS', OPEN[stage], id) == 1
    if ours or (fields and is_foreign(fields)) then
      local reclaimed = holder == RECLAIMED
      if reclaimed then deliveries = deliveries + 1 end
      if not fields then return { id, deliveries, reclaimed and 1 or 0 } end
      call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
      return { id, deliveries, reclaimed and 1 or 0, fields }
    end
    call('XACK', stream, group, id)
  end
end
return {}
