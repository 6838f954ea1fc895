-- Asks the auth service about the credential of a request whose body is large, or of a length that is not known, before the
-- body is taken in. CREDENTIALS (names of headers) and KEY (the service key) are rendered before these lines.

local PATH = "/turnpike.auth.v1.AuthService/Authenticate"
local MILLISECONDS = 5000

local function credential_of(headers)
  for _, name in ipairs(CREDENTIALS) do
    local value = headers:get(name) or ""
    if name == "authorization" then
      local scheme, token = string.match(value, "^%s*(%a+)%s+(.-)%s*$")
      value = scheme and string.lower(scheme) == "bearer" and token or ""
    end
    if value ~= "" then
      return value
    end
  end
end

local function varint(number)
  local bytes = ""
  while number >= 128 do
    bytes = bytes .. string.char(number % 128 + 128)
    number = math.floor(number / 128)
  end
  return bytes .. string.char(number)
end

-- An AuthenticateRequest with its first field, in gRPC's frame.
local function request_of(credential)
  local message = "\10" .. varint(#credential) .. credential
  local length = #message
  return string.char(0, 0, math.floor(length / 65536), math.floor(length / 256) % 256, length % 256) .. message
end

function envoy_on_request(handle)
  local credential = credential_of(handle:headers())
  if credential == nil then
    handle:respond({ [":status"] = "401" }, "")
    return
  end
  local answer = handle:httpCall("auth", {
    [":method"] = "POST",
    [":path"] = PATH,
    [":authority"] = "auth",
    ["content-type"] = "application/grpc",
    ["te"] = "trailers",
    ["x-turnpike-service-key"] = KEY,
  }, request_of(credential), MILLISECONDS)
  -- A call that succeeds has its grpc-status in trailers.
  local status = answer["grpc-status"] or "0"
  if status == "16" then
    handle:respond({ [":status"] = "401" }, "")
  elseif status ~= "0" or answer[":status"] ~= "200" then
    handle:respond({ [":status"] = "503" }, "")
  end
end
