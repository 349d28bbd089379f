-- EPOCH (janitor): the server lost writes (a rewind, a failover), which ends the epoch though its ledger is there.
-- ARGV: the epoch that ended. Returns 1 if this call began another.
local ended = word()
if call('HGET', LEDGER, 'epoch') ~= ended then return 0 end
call('HDEL', LEDGER, 'epoch')
ensure_epoch()
return 1
