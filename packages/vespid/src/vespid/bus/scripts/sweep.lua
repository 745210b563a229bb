-- now -> handed
if not meta[1] then return handed end
expire(64)
serve_all(64)
return handed
