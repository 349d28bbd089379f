-- LOST: an unsettled entry whose body somebody deleted. ARGV: stage, id. Returns the number of events lost.
check_hashes(LEDGER)
local stage, id = word(), word()
if body(stage, id) then return 0 end
local events = fence(stage, id, false)
if not events then return 0 end
count('lost.' .. stage, events)
return events
