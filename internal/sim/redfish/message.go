package redfish

import "fmt"

// messages are those of the DMTF's base registry that the service says, with their arguments.
var messages = map[string]string{
	"ActionParameterMissing":        "The action %s requires the parameter %s to be present in the request body.",
	"ActionParameterValueNotInList": "The value '%s' for the parameter %s in the action %s is not in the list of acceptable values.",
	"ActionParameterValueFormatError": "The value '%s' for the parameter %s in the action %s is of a different " +
		"format than the parameter can accept.",
	"CouldNotEstablishConnection": "The service failed to establish a connection with the URI '%s'.",
	"ActionParameterUnknown":      "The action %s was submitted with the invalid parameter %s.",
	maxMedia: "No more Virtual Media connections are available, because the maximum number of connections are " +
		"already established.",
	inPOST: "The value for the property %s cannot be changed while the computer system BIOS is in POST.",
	"PropertyValueConflict": "The property '%s' could not be written because its value would conflict with the " +
		"value of the '%s' property.",
	"PropertyUnknown":        "The property %s is not in the list of valid properties for the resource.",
	"PropertyNotWritable":    "The property %s is a read only property and cannot be assigned a value.",
	"InternalError":          "The request failed due to an internal service error.  The service is still operational.",
	"MalformedJSON":          "The request body submitted was malformed JSON and could not be parsed by the receiving service.",
	"NoValidSession":         "There is no valid session established with the implementation.",
	"PreconditionFailed":     "The ETag supplied did not match the ETag required to change this resource.",
	"PreconditionRequired":   "A precondition header or annotation is required to change this resource.",
	"PropertyMissing":        "The property %s is a required property and must be included in the request.",
	"PropertyValueNotInList": "The value '%s' for the property %s is not in the list of acceptable values.",
	"ResourceAtUriUnauthorized": "While accessing the resource at '%s', the service received an authorization " +
		"error '%s'.",
	"ResourceInStandby":             "The request could not be performed because the resource is in standby.",
	"ResourceInUse":                 "The change to the requested resource failed because the resource is in use or in transit.",
	"ResourceMissingAtURI":          "The resource at the URI '%s' was not found.",
	"ServiceTemporarilyUnavailable": "The service is temporarily unavailable.  Retry in %s seconds.",
	"SessionLimitExceeded": "The session establishment failed due to the number of simultaneous sessions " +
		"exceeding the limit of the implementation.",
}

// registry is the prefix of messages.
const registry = "Base.1.8."

// failure is an error as DSP0266 section 8.6 wants it.
func failure(status int, id string, args ...string) reply {
	text, known := messages[id]
	if !known {
		panic("no message " + id)
	}
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a
	}
	text = fmt.Sprintf(text, values...)
	id = registry + id
	return reply{status: status, body: object{"error": object{
		"code":    id,
		"message": text,
		"@Message.ExtendedInfo": []object{{
			"@odata.type": "#Message.v1_1_1.Message",
			"MessageId":   id,
			"Message":     text,
			"MessageArgs": append([]string{}, args...),
			// Clients look into it without asking whether it is there.
			"RelatedProperties": []string{},
			"Severity":          "Critical",
			"Resolution":        "None.",
		}},
	}}}
}
