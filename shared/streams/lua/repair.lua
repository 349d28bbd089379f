-- REPAIR (janitor): unsettled entries that were delivered but that no consumer holds (the group was moved,
-- a consumer deleted by foreign hands) go to the pool; ids whose body is gone are returned.
-- ARGV: stage, ids… (from HSCAN, outside). Returns {repaired, ids whose body is gone…}.
local stage = word()
local stream, group = STREAM[stage], GROUP[stage]
local reply = { 0 }
local info = find_group(stage)
if not info then return reply end
for i = 2, #ARGV do
  local id = ARGV[i]
  if call('HEXISTS', OPEN[stage], id) == 1 then
    local delivered = not before(info['last-delivered-id'], id)
    local held = delivered and #call('XPENDING', stream, group, id, id, 1) == 1
    if not held then
      if not body(stage, id) then
        table.insert(reply, id)
      elseif delivered then
        call('XCLAIM', stream, group, RECLAIMED, 0, id, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
        reply[1] = reply[1] + 1
      end
    end
  end
end
return reply
