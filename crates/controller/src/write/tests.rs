use api::v1beta1::EgressGateway;
use plan::Settings;
use runtime::watch::Change;
use serde_json::json;

use super::*;

fn gateway(name: &str, address: &str, holds: &str) -> EgressGateway {
    let unplaced = json!([{"ipv4": holds, "policies": [{"name": name, "namespace": "default"}]}]);
    let unplaced = if holds.is_empty() { json!([]) } else { unplaced };
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
        "spec": {"ippools": {"ipv4": [address]}, "nodeSelector": {"selector": {"matchLabels": {"a": "b"}}}},
        "status": {"unplaced": unplaced},
    }))
    .unwrap()
}

fn policy(gateway: &str) -> EgressPolicy {
    serde_json::from_value(json!({
        "metadata": {"name": gateway, "namespace": "default", "uid": gateway, "resourceVersion": "1"},
        "spec": {"egressGatewayName": gateway, "appliedTo": {"podSelector": {"matchLabels": {"app": "x"}}}},
    }))
    .unwrap()
}

/// Two gateways that have swapped their pools, each with a policy.
fn swapped() -> State {
    let mut state = State::new(Settings::default());
    let gateways = vec![gateway("g1", "10.6.1.1", "10.6.1.2"), gateway("g2", "10.6.1.2", "10.6.1.1")];
    state.absorb(Input::Gateway(Change::Replaced(gateways)));
    state.absorb(Input::Policy(Change::Replaced(vec![policy("g1"), policy("g2")])));
    state.planner.plan();
    state
}

/// EIPs that a status that is written names.
fn eips(job: &Job) -> Option<Vec<String>> {
    let runtime::writer::Action::Patch(Part::Status, patch) = &job.write.action else { return None };
    let unplaced = patch.pointer("/status/unplaced");
    let list = unplaced.and_then(Value::as_array).cloned().unwrap_or_default();
    Some(list.iter().map(|eip| eip["ipv4"].as_str().unwrap().to_owned()).collect())
}

/// Writes it all; the statuses of gateways in their order, with the EIPs that they name. Those of `failing` can't be written.
fn written(state: &mut State, failing: &str) -> Vec<(String, Vec<String>)> {
    let mut writes = Writes::new(Changed::Everything, crate::clock::Clock::wall(), Duration::ZERO);
    let (mut told, mut version) = (Vec::new(), 1);
    while let Some(next) = writes.next(state, true) {
        let Next::Jobs(jobs) = next else {
            writes.confirmed(state, Some(true));
            continue;
        };
        for job in jobs {
            let object = job.write.collection.ends_with("egressgateways").then_some(&job.write.name);
            let known =
                object.and_then(|name| state.gateways.get(name)).map(|it| serde_json::to_value(it).unwrap());
            let Some(mut object) = known else { continue };
            if let (Some(eips), false) = (eips(&job), job.write.name == failing) {
                told.push((job.write.name.clone(), eips));
            }
            if job.write.name == failing && eips(&job).is_some() {
                let what = job.write.what.clone();
                writes.answered(state, &job, Err(WriteError::Conflict { what }));
                continue;
            }
            version += 1;
            if let runtime::writer::Action::Patch(_, patch) = &job.write.action {
                for (path, value) in [("status", patch.get("status")), ("spec", patch.get("spec"))] {
                    let (Some(Value::Object(fields)), Some(Value::Object(into))) =
                        (value, object.get_mut(path))
                    else {
                        continue;
                    };
                    into.extend(fields.clone());
                    into.retain(|_, value| !value.is_null());
                }
            }
            object["metadata"]["resourceVersion"] = version.to_string().into();
            writes.answered(state, &job, Ok(object));
        }
    }
    told
}

#[test]
fn an_eip_is_taken_from_one_gateway_before_another_gets_it() {
    let none = Vec::new();
    let one = |eip: &str| vec![eip.to_owned()];
    let of = |name: &str, eips: &[String]| (name.to_owned(), eips.to_vec());
    assert_eq!(
        written(&mut swapped(), ""),
        [of("g1", &none), of("g2", &none), of("g1", &one("10.6.1.1")), of("g2", &one("10.6.1.2"))]
    );
}

#[test]
fn what_could_not_be_taken_is_not_given() {
    let told = written(&mut swapped(), "g1");
    // g1 holds the address of g2 still; that of g1 itself has been taken.
    assert_eq!(told, [("g2".to_owned(), Vec::new())]);
}
