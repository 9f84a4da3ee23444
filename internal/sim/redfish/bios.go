package redfish

import (
	"maps"
	"net/http"
)

const (
	biosPath         = SystemPath + "/Bios"
	biosSettingsPath = biosPath + "/Settings"
	resetBIOSPath    = biosPath + "/Actions/Bios.ResetBios"
	baseConfigsPath  = biosPath + "/BaseConfigs"
	registriesPath   = Root + "Registries"
	// registryName is that of what describes the settings, registryText where it is.
	registryName = "BiosAttributeRegistry.v1_0_0"
	registryText = Root + "Schemas/" + registryName + ".json"
)

// biosAttributes are the settings of the machine's firmware, which change nothing in it.
var biosAttributes = []object{
	{"AttributeName": "ProcVirtualization", "Type": "Enumeration", "DefaultValue": "Enabled", "ReadOnly": false,
		"ResetRequired": true, "IsSystemUniqueProperty": false, "Value": []object{{"ValueName": "Enabled"},
			{"ValueName": "Disabled"}}},
	{"AttributeName": "QuietBoot", "Type": "Boolean", "DefaultValue": true, "ReadOnly": false, "ResetRequired": false},
	{"AttributeName": "CoresPerSocket", "Type": "Integer", "DefaultValue": 0, "LowerBound": 0, "UpperBound": 64,
		"ReadOnly": false, "ResetRequired": true},
	{"AttributeName": "AssetTag", "Type": "String", "DefaultValue": "", "MinLength": 0, "MaxLength": 32,
		"ReadOnly": false, "IsSystemUniqueProperty": true},
	{"AttributeName": "SystemBiosVersion", "Type": "String", "ReadOnly": true},
}

// factoryBIOS are the values of a machine that is new.
func factoryBIOS() object {
	all := object{"SystemBiosVersion": "1.0"}
	for _, a := range biosAttributes {
		if v, ok := a["DefaultValue"]; ok {
			all[a["AttributeName"].(string)] = v
		}
	}
	return all
}

// BIOS are the settings now.
func (s *Service) BIOS() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.settings)
}

// readBIOS are the settings as clients read them.
func (s *Service) readBIOS() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.untold > 0 {
		s.untold--
		return object{}
	}
	return maps.Clone(s.settings)
}

func (s *Service) bios() object {
	if s.o.Model == ILO4 {
		return s.hpBIOS(biosPath, s.readBIOS(), s.firmwareNow())
	}
	return object{"@odata.id": biosPath, "@odata.type": "#Bios.v1_1_0.Bios", "Id": "BIOS", "Name": "BIOS settings",
		"AttributeRegistry": registryName, "Attributes": s.readBIOS(),
		"@Redfish.Settings": object{"@odata.type": "#Settings.v1_3_0.Settings", "SettingsObject": link(biosSettingsPath)},
		"Actions":           object{"#Bios.ResetBios": object{"target": resetBIOSPath}}}
}

// biosSettings is what counts from the next start on.
func (s *Service) biosSettings() object {
	next := s.firmwareNext()
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := object{}
	if s.o.Model == ILO4 { // tells all of them there
		maps.Copy(pending, s.settings)
		maps.Copy(pending, s.wanted)
		return s.hpBIOS(biosSettingsPath, pending, next)
	}
	maps.Copy(pending, s.wanted)
	return object{"@odata.id": biosSettingsPath, "@odata.type": "#Bios.v1_1_0.Bios", "Id": "Settings",
		"Name": "pending BIOS settings", "AttributeRegistry": registryName, "Attributes": pending,
		"@Redfish.SettingsApplyTime": object{"@odata.type": "#Settings.v1_3_0.PreferredApplyTime",
			"ApplyTime@Redfish.AllowableValues": []string{"OnReset"}}}
}

// hpModes are the values of the setting BootMode of HPE's machines.
var hpModes = map[Mode]string{UEFI: "Uefi", Legacy: "LegacyBios"}

// hpBIOS are settings as an iLO 4 has them: in the resource itself, the boot mode among them.
func (s *Service) hpBIOS(path string, settings object, f firmware) object {
	older := func(path string) object { return object{"href": path} }
	body := object{"@odata.id": path, "@odata.type": "#HpBios.1.2.0.HpBios", "Type": "HpBios.1.2.0", "Name": "BIOS",
		"AttributeRegistry": "HpBiosAttributeRegistryI36.1.0.40", "Modified": "2015-03-13T21:50:42+00:00",
		"links": object{"self": older(path), "Settings": older(biosSettingsPath), "BaseConfigs": older(baseConfigsPath)}}
	if len(settings) > 0 {
		maps.Copy(body, settings)
		body["BootMode"], body["UefiOptimizedBoot"], body["AdminPassword"] = hpModes[f.mode], "Enabled", nil
	}
	return body
}

// baseConfigs are the settings with which an iLO 4's machine came.
func (s *Service) baseConfigs() object {
	settings := factoryBIOS()
	delete(settings, "SystemBiosVersion")
	settings["BootMode"], settings["AdminPassword"] = hpModes[UEFI], ""
	return object{"@odata.id": baseConfigsPath, "@odata.type": "#HpBaseConfigs.0.10.0.HpBaseConfigs", "Name": "BIOS Defaults",
		"Capabilities": object{"BaseConfig": true}, "BaseConfigs": []object{{"preset": nil}, {"default": settings}}}
}

// patchHP takes settings of an iLO 4 for the next start.
func (s *Service) patchHP(change object) *reply {
	if mode, there := change["BootMode"]; there {
		f := s.firmwareNext()
		f.mode = UEFI
		if mode != hpModes[UEFI] {
			f.mode = Legacy
		}
		if refused := s.changeFirmware(f, "BootMode"); refused != nil {
			return refused
		}
		delete(change, "BootMode")
	}
	delete(change, "UefiOptimizedBoot")
	return nil
}

// biosRoutes are the settings and what describes them; what describes those of an iLO 4 is not here.
func (s *Service) biosRoutes() []route {
	offered := func(do func(*http.Request) reply) func(*http.Request) reply {
		return func(r *http.Request) reply {
			if s.Quirks().NoBIOS {
				return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
			}
			return do(r)
		}
	}
	file := object{"@odata.id": registriesPath + "/" + registryName, "Id": registryName,
		"@odata.type": "#MessageRegistryFile.v1_1_0.MessageRegistryFile", "Name": registryName, "Registry": registryName,
		"Languages": []string{"en"}, "Location": []object{{"Language": "en", "Uri": registryText}}}
	text := object{"@odata.type": "#AttributeRegistry.v1_3_0.AttributeRegistry", "Id": registryName, "Language": "en",
		"Name": registryName, "OwningEntity": "ingot", "RegistryVersion": "1.0.0",
		"RegistryEntries": object{"Attributes": biosAttributes}}
	routes := []route{
		{"GET " + biosPath, false, offered(resource(s.bios))},
		{"GET " + biosSettingsPath, false, offered(resource(s.biosSettings))},
		{"PATCH " + biosSettingsPath, false, offered(s.patchBIOS)},
	}
	if s.o.Model == ILO4 {
		return append(routes, route{"GET " + baseConfigsPath, false, offered(resource(s.baseConfigs))})
	}
	return append(routes, []route{
		{"POST " + resetBIOSPath, false, offered(s.resetBIOS)},
		{"GET " + registriesPath, false, resource(collection("MessageRegistryFile", registriesPath,
			registriesPath+"/"+registryName))},
		{"GET " + registriesPath + "/" + registryName, false, resource(func() object { return file })},
		{"GET " + registryText, false, resource(func() object { return text })},
	}...)
}

// patchBIOS takes settings for the next start.
func (s *Service) patchBIOS(r *http.Request) reply {
	s.changing.Lock()
	defer s.changing.Unlock()
	if refused := s.precondition(r, s.biosSettings()); refused != nil {
		return *refused
	}
	var change struct{ Attributes map[string]any }
	body := any(&change)
	if s.o.Model == ILO4 {
		body = &change.Attributes
	}
	if err := decode(r, body); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	if s.o.Model == ILO4 {
		if refused := s.patchHP(change.Attributes); refused != nil {
			return *refused
		}
	}
	now := s.BIOS()
	for name := range change.Attributes {
		if _, known := now[name]; !known {
			return failure(http.StatusBadRequest, "PropertyUnknown", name)
		}
		if name == "SystemBiosVersion" {
			return failure(http.StatusBadRequest, "PropertyNotWritable", name)
		}
	}
	s.mu.Lock()
	if s.wanted == nil {
		s.wanted = object{}
	}
	maps.Copy(s.wanted, change.Attributes)
	s.mu.Unlock()
	return reply{status: http.StatusOK, body: s.biosSettings()}
}

// resetBIOS has the settings of the factory count from the next start on.
func (s *Service) resetBIOS(*http.Request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = factoryBIOS()
	return reply{status: http.StatusNoContent}
}

// applyBIOS has what is pending count, at a start.
func (s *Service) applyBIOS() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.quirks.BIOSForgets {
		maps.Copy(s.settings, s.wanted)
	}
	s.wanted, s.untold, s.starting = nil, s.quirks.BIOSInPOST, s.quirks.ProgressLooks
}

// addProgress tells how far the last start has come.
func (s *Service) addProgress(body object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quirks.ProgressLooks == 0 {
		return
	}
	state := "OSRunning" // some go on telling so when the system is off
	if s.starting > 0 {
		s.starting--
		state = "MemoryInitializationStarted"
	}
	body["BootProgress"] = object{"LastState": state}
}
