//! Tables and partial metadata.

use serde_json::{Value, json};

use crate::harness::{CONFIG_MAPS, Cluster, WIDGETS, config_map, define_widgets, widget};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn column_names(table: &Value) -> Vec<&str> {
    let columns = table["columnDefinitions"].as_array().expect("columns");
    columns.iter().map(|column| column["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_list_becomes_a_table_with_partial_metadata() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let reply = client.get_as(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name=one"), TABLE).await;
    assert_eq!(reply.header("content-type"), "application/json");
    let table = reply.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(column_names(&table), ["Name", "Data", "Age"]);
    assert!(table["metadata"]["resourceVersion"].is_string());
    assert_eq!(table["rows"][0]["cells"][0], "one");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "one");
}

#[tokio::test]
async fn a_table_carries_as_much_of_the_object_as_is_asked_for() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let object = async |include: &str| {
        let path = format!("{CONFIG_MAPS}/one?includeObject={include}");
        client.get_as(&path, TABLE).await.expect(200)["rows"][0]["object"].clone()
    };
    assert_eq!(object("None").await, Value::Null);
    assert_eq!(object("Object").await["data"]["key"], "1");
    assert_eq!(object("Metadata").await["data"], Value::Null);
    client.get_as(&format!("{CONFIG_MAPS}?includeObject=All"), TABLE).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn a_custom_kind_has_the_columns_of_its_definition() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    define_widgets(&client).await;
    client.post(WIDGETS, &widget("w", 3)).await.expect(201);
    let table = client.get_as(WIDGETS, TABLE).await.expect(200);
    assert_eq!(column_names(&table), ["Name", "Size", "Phase"]);
    assert_eq!(table["rows"][0]["cells"], json!(["w", 3, null]));
}

#[tokio::test]
async fn a_watch_sends_the_columns_with_its_first_table_only() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let path = format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name=one&resourceVersion=0");
    let mut watch = client.watch_as(&path, TABLE).await;
    let first = watch.next().await.expect("an event");
    assert_eq!(first["type"], "ADDED");
    assert_eq!(column_names(&first["object"]), ["Name", "Data", "Age"]);
    client.put(&format!("{CONFIG_MAPS}/one"), &config_map("one", "2")).await.expect(200);
    let second = watch.next().await.expect("an event");
    assert_eq!((&second["type"], &second["object"]["columnDefinitions"]), (&json!("MODIFIED"), &Value::Null));
    assert_eq!(second["object"]["rows"].as_array().expect("rows").len(), 1);
}

#[tokio::test]
async fn metadata_alone_is_answered_when_asked_for() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let list_form = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let path = format!("{CONFIG_MAPS}?fieldSelector=metadata.name=one");
    let list = client.get_as(&path, list_form).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(list["items"][0]["data"], Value::Null);
    let one_form = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let one = client.get_as(&format!("{CONFIG_MAPS}/one"), one_form).await.expect(200);
    assert_eq!(one["metadata"]["name"], "one");
    let mut watch = client.watch_as(&format!("{path}&watch=true"), one_form).await;
    assert_eq!(watch.next().await.expect("an event")["object"]["kind"], "PartialObjectMetadata");
}
