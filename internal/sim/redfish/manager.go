package redfish

// manager is the BMC itself.
func (s *Service) manager() object {
	body := object{
		"@odata.id":       ManagerPath,
		"@odata.type":     "#Manager.v1_5_1.Manager",
		"Id":              "1",
		"Name":            "Manager",
		"ManagerType":     "BMC",
		"UUID":            s.o.UUID,
		"FirmwareVersion": "1.0",
		"Model":           "simulated BMC",
		"PowerState":      On,
		"Status":          object{"State": "Enabled", "Health": "OK"},
		"Links": object{
			"ManagerForServers":             []object{link(SystemPath)},
			"ManagerForServers@odata.count": 1,
		},
	}
	if s.drives != nil && !s.Quirks().MediaUnderSystem {
		body["VirtualMedia"] = link(s.mediaPath())
	}
	return body
}
