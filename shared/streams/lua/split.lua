-- SPLIT: a suspect batch becomes entries of one event, so that a poison event costs itself, not its neighbours.
-- ARGV: id, events, entries (each its fields)… Returns 1, or 0 if somebody settled it.
local id, events, entries = word(), number(), lists()
if #entries ~= events then return redis.error_reply('UNBALANCED ' .. id .. ': ' .. #entries .. ' of ' .. events) end
check_streams(RAW)
check_hashes(LEDGER)
if not fence('raw', id, false) then return 0 end
ensure_epoch()
count('split', events)
for _, fields in ipairs(entries) do add('raw', 1, fields) end
return 1
